//! The blocks of a model by name: `down.4`, `mid`, `double.0-9`, `joint.3,5-7`.
//!
//! U-Nets have kohya's 25 blocks (SD 1.x and 2.x: 12 down, 1 mid, 12 up) or 23 (SDXL: 9, 3, 9 and one at either end
//! without layers). A transformer's blocks are those of its lists.

use pipe_data::lora_names::{Group, LoraTarget};
use pipe_data::weights::Family;

use super::size::ByBlock;

/// A run of blocks with a name.
#[derive(Clone, Debug, PartialEq)]
struct Section {
    name: &'static str,
    group: Group,
    /// Place of its first block among all.
    first: usize,
    count: usize,
}

/// The blocks of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    sections: Vec<Section>,
    /// Length of a list of all blocks.
    pub len: usize,
}

impl Blocks {
    /// The blocks of a denoiser with these layers.
    pub fn of(family: Family, layers: &[LoraTarget]) -> Self {
        let unet = |list: [(&'static str, usize, usize); 3], len| Blocks {
            sections: list.map(|(name, first, count)| Section { name, group: Group::Unet, first, count }).to_vec(),
            len,
        };
        match family {
            Family::Sd1 | Family::Sd2 => unet([("down", 0, 12), ("mid", 12, 1), ("up", 13, 12)], 25),
            Family::Sdxl => unet([("down", 1, 9), ("mid", 10, 3), ("up", 13, 9)], 23),
            _ => {
                let mut blocks = Blocks { sections: Vec::new(), len: 0 };
                for (name, group) in [
                    ("double", Group::Double),
                    ("single", Group::Single),
                    ("joint", Group::Joint),
                    ("layers", Group::Layers),
                    ("noise_refiner", Group::NoiseRefiner),
                    ("context_refiner", Group::ContextRefiner),
                ] {
                    let own = layers.iter().filter(|l| l.group == group);
                    let count = own.filter_map(|l| l.block_index).max().map_or(0, |last| last + 1);
                    if count > 0 {
                        blocks.sections.push(Section { name, group, first: blocks.len, count });
                        blocks.len += count;
                    }
                }
                blocks
            }
        }
    }

    /// Place of a layer's block among all.
    pub fn place(&self, layer: &LoraTarget) -> Option<usize> {
        let index = layer.block_index?;
        if layer.group == Group::Unet {
            return Some(index);
        }
        let section = self.sections.iter().find(|s| s.group == layer.group)?;
        Some(section.first + index)
    }

    /// Place of a block of a list, if it is there.
    pub fn at(&self, group: Group, index: usize) -> Option<usize> {
        if group == Group::Unet {
            return (index < self.len).then_some(index);
        }
        let section = self.sections.iter().find(|s| s.group == group && index < s.count)?;
        Some(section.first + index)
    }

    /// The name of a block.
    pub fn name(&self, place: usize) -> String {
        match self.sections.iter().find(|s| (s.first..s.first + s.count).contains(&place)) {
            Some(s) if s.count == 1 => s.name.to_owned(),
            Some(s) => format!("{}.{}", s.name, place - s.first),
            None => place.to_string(),
        }
    }

    /// What there is, in words.
    pub fn describe(&self) -> String {
        let of = |s: &Section| match s.count {
            1 => format!("`{}`", s.name),
            n => format!("`{}.0` to `{}.{}`", s.name, s.name, n - 1),
        };
        self.sections.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    /// Places of the blocks that a key names.
    pub fn select(&self, key: &str) -> Result<Vec<usize>, String> {
        let (name, numbers) = key.split_once('.').map_or((key, None), |(name, numbers)| (name, Some(numbers)));
        let Some(section) = self.sections.iter().find(|s| s.name == name) else {
            return Err(format!("this model has no blocks called `{name}`"));
        };
        let Some(numbers) = numbers else { return Ok((section.first..section.first + section.count).collect()) };
        let mut places = Vec::new();
        for item in numbers.split(',') {
            let (from, to) = item.split_once('-').unwrap_or((item, item));
            let number = |text: &str| text.trim().parse::<usize>();
            let (Ok(from), Ok(to)) = (number(from), number(to)) else {
                return Err(format!("`{item}` in `{key}` is neither a number nor a range such as `0-9`"));
            };
            if from > to {
                return Err(format!("the range `{item}` in `{key}` ends before it begins"));
            }
            if to >= section.count {
                return Err(format!("`{name}` has no block {to}"));
            }
            places.extend(section.first + from..=section.first + to);
        }
        Ok(places)
    }

    /// A value for each block that has one. `there` are the blocks with layers; a key that meets none of them is
    /// reported, as are blocks named twice and lists of another length: each with the path below the field.
    pub fn spread<T: Clone>(
        &self,
        values: &ByBlock<T>,
        there: &[bool],
        mut report: impl FnMut(&str, String),
    ) -> Vec<Option<T>> {
        let mut out: Vec<Option<T>> = vec![None; self.len];
        match values {
            ByBlock::All(list) if list.len() == self.len => {
                out = list.iter().cloned().map(Some).collect();
            }
            ByBlock::All(list) => {
                report("", format!("the list has {} entries, this model {} blocks", list.len(), self.len));
            }
            ByBlock::Some(map) => {
                for (key, value) in map {
                    match self.select(key) {
                        Err(message) => report(key, message),
                        Ok(places) if places.iter().all(|p| !there.get(*p).copied().unwrap_or(false)) => {
                            report(key, format!("no adapted layer is in `{key}`"));
                        }
                        Ok(places) => {
                            for place in places {
                                if out[place].is_some() {
                                    report(key, format!("block `{}` is given twice", self.name(place)));
                                }
                                out[place] = Some(value.clone());
                            }
                        }
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn keys_of_unets() {
        let sd1 = Blocks::of(Family::Sd1, &[]);
        assert_eq!(sd1.select("down.4").unwrap(), [4]);
        assert_eq!(sd1.select("mid").unwrap(), [12]);
        assert_eq!(sd1.select("up.0,3-5").unwrap(), [13, 16, 17, 18]);
        assert_eq!(sd1.select("up").unwrap().len(), 12);
        assert_eq!((sd1.name(12), sd1.name(24)), ("mid".into(), "up.11".into()));
        let sdxl = Blocks::of(Family::Sdxl, &[]);
        assert_eq!((sdxl.select("down.8").unwrap(), sdxl.select("mid.2").unwrap()), (vec![9], vec![12]));
        for key in ["down.9", "left", "up.x", "up.3-1", "mid.", "up.99999999999999999999"] {
            assert!(sdxl.select(key).is_err(), "{key}");
        }
    }

    #[test]
    fn faults_are_told() {
        let sd1 = Blocks::of(Family::Sd1, &[]);
        let mut there = vec![true; 25];
        there[3] = false;
        let told = |values: ByBlock<u64>| {
            let mut list = Vec::new();
            sd1.spread(&values, &there, |key, message| list.push(format!("{key}: {message}")));
            list
        };
        let map = |keys: &[&str]| ByBlock::Some(keys.iter().map(|k| (k.to_string(), 4)).collect::<BTreeMap<_, _>>());
        assert_eq!(told(map(&["down.3-4", "mid"])), Vec::<String>::new());
        assert_eq!(told(map(&["down.3"])), ["down.3: no adapted layer is in `down.3`"]);
        assert_eq!(told(map(&["up", "up.2"])), ["up.2: block `up.2` is given twice"]);
        assert_eq!(told(ByBlock::All(vec![1; 24])), [": the list has 24 entries, this model 25 blocks"]);
    }
}
