//! Adapter files: what each kind writes and reads.
//!
//! Most tensors are written as they are in memory. The slices of DyLoRA and the parts of a split LoRA are written as one
//! LoRA, which every program reads: slices behind each other, parts as stacked down factors and block-diagonal up factors.
//! A number that learns beside them is multiplied into the factors that LyCORIS multiplies by it; read again, it is 1.

use std::collections::HashMap;

use pipe_ops::Tensor;

use super::{Kind, Piece, Target};

/// Values of a file entry.
pub enum Values<'a> {
    /// A tensor as it is.
    Tensor(&'a Tensor),
    /// Made of several.
    Made(Vec<f32>),
}

/// A tensor of a file.
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Values<'a>,
}

const DOWN: &str = "lora_down.weight";
const UP: &str = "lora_up.weight";
const ON_INPUT: &str = "on_input";

impl Target {
    /// Name of the α.
    pub fn alpha_name(&self) -> String {
        self.key("alpha")
    }

    /// Whether slices or parts are joined in the file, and the rank they then have.
    fn joined(&self) -> Option<usize> {
        match &self.kind {
            Kind::Nested { .. } => Some(self.rank),
            Kind::Lora { parts, .. } if !parts.is_empty() => Some(parts.len() * self.rank),
            _ => None,
        }
    }

    /// Names and shapes in a file, α left out.
    pub fn file_shapes(&self) -> Vec<(String, Vec<usize>)> {
        match self.joined() {
            Some(rank) => {
                vec![(self.key(DOWN), self.down_shape(rank)), (self.key(UP), self.up_shape(self.weight[0], rank))]
            }
            None => {
                let list = self.pieces().into_iter().filter(|p| Some(&p.key) != self.scalar_key().as_ref());
                let flag = self.flag().map(|_| (self.key(ON_INPUT), Vec::new()));
                list.map(|p| (p.key, p.shape)).chain(flag).collect()
            }
        }
    }

    /// Whether the factors of (IA)³ are of inputs, which its files say.
    fn flag(&self) -> Option<f32> {
        match self.kind {
            Kind::Scale { on_input } => Some(f32::from(u8::from(on_input))),
            _ => None,
        }
    }

    /// Whether the number that the change is multiplied by is multiplied into this tensor of a file.
    fn takes_scalar(&self, key: &str) -> bool {
        let endings: &[&str] = match self.kind {
            Kind::Hadamard { .. } => &["hada_w1_a"],
            Kind::Kronecker { .. } => &["lokr_w1", "lokr_w1_a"],
            Kind::General => &["a2.weight", "b2.weight"],
            _ => &[UP],
        };
        endings.iter().any(|ending| key == self.key(ending))
    }

    /// What is written, α left out. `find` gives the tensors by key; a missing one is named in the error.
    pub fn entries<'a>(&self, find: impl Fn(&str) -> Option<&'a Tensor>) -> Result<Vec<Entry<'a>>, String> {
        let get = |key: &str| find(key).ok_or_else(|| format!("`{key}` is not there"));
        let scalar = self.scalar_key();
        let factor = match &scalar {
            Some(key) => Some(get(key)?.to_vec()[0]),
            None => None,
        };
        let times = |values: Vec<f32>, factor: f32| values.into_iter().map(|x| x * factor).collect::<Vec<f32>>();
        let pieces = self.pieces().into_iter().filter(|p| Some(&p.key) != scalar.as_ref());
        let Some(rank) = self.joined() else {
            let entry = |p: Piece| {
                let tensor = get(&p.key)?;
                let values = match factor.filter(|_| self.takes_scalar(&p.key)) {
                    Some(factor) => Values::Made(times(tensor.to_vec(), factor)),
                    None => Values::Tensor(tensor),
                };
                Ok(Entry { values, name: p.key, shape: p.shape })
            };
            let flag = |on: f32| Entry { name: self.key(ON_INPUT), shape: Vec::new(), values: Values::Made(vec![on]) };
            return pieces.map(entry).chain(self.flag().map(flag).map(Ok)).collect();
        };
        let (mut down, mut up) = (Vec::new(), vec![0.0; self.weight[0] * rank]);
        // Each pair takes its own columns of the up factor; parts their own rows, slices all rows.
        let (mut row, mut column) = (0, 0);
        for piece in pieces {
            let values = times(get(&piece.key)?.to_vec(), factor.filter(|_| piece.up).unwrap_or(1.0));
            if !piece.up {
                down.extend(values);
                continue;
            }
            let (rows, r) = (piece.shape[0], piece.shape[1]);
            for i in 0..rows {
                up[(row + i) * rank + column..][..r].copy_from_slice(&values[i * r..(i + 1) * r]);
            }
            column += r;
            if matches!(self.kind, Kind::Lora { .. }) {
                row += rows;
            }
        }
        let shapes = self.file_shapes();
        Ok(shapes
            .into_iter()
            .zip([down, up])
            .map(|((name, shape), values)| Entry { name, shape, values: Values::Made(values) })
            .collect())
    }

    /// The pieces' values from those of a file. `None` when a file of one pair is not block-diagonal, and so not of
    /// parts, and when factors of (IA)³ are not of what they are to be.
    pub fn unpack(&self, mut file: HashMap<String, Vec<f32>>) -> Option<HashMap<String, Vec<f32>>> {
        let mut out: HashMap<String, Vec<f32>> = self.scalar_key().map(|key| (key, vec![1.0])).into_iter().collect();
        let Some(rank) = self.joined() else {
            if let Some(on) = self.flag()
                && file.remove(&self.key(ON_INPUT))?.first() != Some(&on)
            {
                return None;
            }
            out.extend(file);
            return Some(out);
        };
        let (down, up) = (file.remove(&self.key(DOWN))?, file.remove(&self.key(UP))?);
        let (mut row, mut column, mut taken) = (0, 0, 0);
        let mut used = 0;
        for piece in self.pieces().into_iter().filter(|p| Some(&p.key) != self.scalar_key().as_ref()) {
            if !piece.up {
                let n: usize = piece.shape.iter().product();
                out.insert(piece.key, down.get(taken..taken + n)?.to_vec());
                taken += n;
                continue;
            }
            let (rows, r) = (piece.shape[0], piece.shape[1]);
            let mut values = Vec::with_capacity(rows * r);
            for i in 0..rows {
                values.extend_from_slice(up.get((row + i) * rank + column..(row + i) * rank + column + r)?);
            }
            used += values.iter().filter(|v| **v != 0.0).count();
            out.insert(piece.key, values);
            column += r;
            if matches!(self.kind, Kind::Lora { .. }) {
                row += rows;
            }
        }
        (used == up.iter().filter(|v| **v != 0.0).count()).then_some(out)
    }

    /// α in memory from the file's.
    pub fn alpha_from_file(&self, alpha: f32) -> f32 {
        match &self.kind {
            Kind::Lora { parts, .. } if !parts.is_empty() => alpha / parts.len() as f32,
            _ => alpha,
        }
    }

    /// Rank of this target in a file that has tensors of these shapes; `None` when the file does not adapt it.
    pub fn rank_in_file(&self, shape: impl Fn(&str) -> Option<Vec<usize>>) -> Option<usize> {
        let first = |ending: &str| shape(&self.key(ending)).and_then(|s| s.first().copied());
        match &self.kind {
            Kind::Lora { parts, .. } => first(DOWN).map(|r| r / parts.len().max(1)),
            Kind::Nested { .. } | Kind::Decomposed => first(DOWN),
            Kind::Hadamard { .. } => first("hada_w1_b"),
            Kind::Kronecker { .. } => first("lokr_w2_b").or_else(|| first("lokr_w1_b")),
            Kind::Difference { .. } => first("diff").map(|_| 1),
            Kind::Norm { .. } => first("w_norm").map(|_| 1),
            Kind::Rotation { parts } if parts.is_empty() => first("oft_blocks"),
            Kind::Rotation { .. } => first("oft_blocks.0"),
            Kind::Diagonal { .. } | Kind::Butterfly { .. } => {
                shape(&self.key("oft_blocks")).and_then(|s| s.last().copied())
            }
            Kind::Scale { .. } => first("weight").map(|_| 1),
            Kind::General => first("b2.weight"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pipe_ops::Device;

    use super::*;
    use crate::adapters::create;
    use crate::trainables::Dropouts;

    fn round_trip(kind: Kind, weight: &[usize]) {
        let mut target = Target::lora("unet", "x.y", "lora_unet_x_y", weight, 4, 2.0);
        target.kind = kind;
        let mut train = create(&[target.clone()], Dropouts::default(), 1, &Device::Cpu, &HashMap::new(), &|_, _| None);
        for (i, tensor) in train.tensors.values_mut().enumerate() {
            tensor.update(|v| v.iter_mut().enumerate().for_each(|(j, v)| *v = 1.0 + (i * 1000 + j) as f32));
        }
        let entries = target.entries(|key| train.factor(key)).unwrap();
        let shapes: Vec<_> = entries.iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        assert_eq!(shapes, target.file_shapes());
        let values = |e: &Entry| match &e.values {
            Values::Tensor(t) => t.to_vec(),
            Values::Made(v) => v.clone(),
        };
        let file: HashMap<_, _> = entries.iter().map(|e| (e.name.clone(), values(e))).collect();
        for entry in &entries {
            assert_eq!(file[&entry.name].len(), entry.shape.iter().product::<usize>(), "{}", entry.name);
        }
        let back = target.unpack(file).unwrap();
        assert_eq!(back.len(), train.tensors.len() + train.frozen.len());
        for (key, values) in back {
            assert_eq!(values, train.factor(&key).unwrap().to_vec(), "{key}");
        }
    }

    #[test]
    fn files_and_memory_agree() {
        for weight in [&[12, 6][..], &[12, 6, 3, 3]] {
            round_trip(Kind::Lora { frozen_down: true, parts: vec![] }, weight);
            round_trip(Kind::Lora { frozen_down: false, parts: vec![4, 4, 4] }, weight);
            round_trip(Kind::Nested { unit: 2, compat: false }, weight);
            round_trip(Kind::Decomposed, weight);
            for tucker in [false, true] {
                round_trip(Kind::Hadamard { tucker }, weight);
                round_trip(Kind::Kronecker { factor: None, both: true, full: false, tucker }, weight);
            }
            round_trip(Kind::Rotation { parts: vec![] }, weight);
            for yes in [false, true] {
                round_trip(Kind::Diagonal { rescaled: yes }, weight);
                round_trip(Kind::Butterfly { rescaled: yes }, weight);
                round_trip(Kind::Scale { on_input: yes }, weight);
            }
            round_trip(Kind::General, weight);
            round_trip(Kind::Difference { bias: true }, weight);
        }
        round_trip(Kind::Norm { bias: true }, &[12]);
    }

    /// The number that learns beside the factors is multiplied into one of them, and 1 when the file is read.
    #[test]
    fn a_scalar_is_folded_in() {
        let lora = |parts: Vec<usize>| Kind::Lora { frozen_down: false, parts };
        let lokr = |both: bool| Kind::Kronecker { factor: Some(3), both, full: false, tucker: false };
        for (kind, folded) in [
            (lora(vec![]), "lora_up.weight"),
            (lora(vec![4, 4, 4]), "lora_up.weight"),
            (Kind::Decomposed, "lora_up.weight"),
            (Kind::Hadamard { tucker: false }, "hada_w1_a"),
            (lokr(false), "lokr_w1"),
            (lokr(true), "lokr_w1_a"),
            (Kind::General, "2.weight"),
        ] {
            let mut target = Target::lora("unet", "x", "lora_unet_x", &[12, 6], 1, 2.0);
            (target.kind, target.scalar) = (kind, true);
            let device = Device::Cpu;
            let mut train = create(&[target.clone()], Dropouts::default(), 1, &device, &HashMap::new(), &|_, _| None);
            assert_eq!(train.tensors["lora_unet_x.scalar"].to_vec(), [0.0]);
            train.tensors.insert("lora_unet_x.scalar".into(), Tensor::host(vec![3.0], &[1]));
            let before = |name: &str| {
                let mut plain = target.clone();
                plain.scalar = false;
                let values = plain.entries(|key| train.factor(key)).unwrap();
                values.into_iter().find(|e| e.name == name).map(|e| match e.values {
                    Values::Tensor(t) => t.to_vec(),
                    Values::Made(v) => v,
                })
            };
            let (mut file, mut times) = (HashMap::new(), 0);
            for entry in target.entries(|key| train.factor(key)).unwrap() {
                let factor = if entry.name.ends_with(folded) { 3.0 } else { 1.0 };
                times += usize::from(factor != 1.0);
                let values = match entry.values {
                    Values::Tensor(t) => t.to_vec(),
                    Values::Made(v) => v,
                };
                let plain = before(&entry.name).unwrap();
                assert_eq!(values, plain.iter().map(|x| x * factor).collect::<Vec<f32>>(), "{}", entry.name);
                file.insert(entry.name, values);
            }
            assert_eq!(times, if target.kind == Kind::General { 2 } else { 1 }, "{:?}", target.kind);
            assert_eq!(target.unpack(file).unwrap()["lora_unet_x.scalar"], [1.0]);
        }
    }

    /// A split LoRA is written so that a plain reader finds the same product: `n·α/(n·r) = α/r`.
    #[test]
    fn parts_keep_their_scale() {
        let mut target = Target::lora("transformer", "qkv", "lora_unet_qkv", &[6, 5], 2, 3.0);
        target.kind = Kind::Lora { frozen_down: false, parts: vec![2, 2, 2] };
        let shapes = target.file_shapes();
        assert_eq!(shapes[0], ("lora_unet_qkv.lora_down.weight".into(), vec![6, 5]));
        assert_eq!(target.file_alpha() / shapes[0].1[0] as f32, target.adapter(Dropouts::default()).scale);
        assert_eq!(target.alpha_from_file(target.file_alpha()), 3.0);
        // Anything outside the diagonal blocks is not of parts.
        let dense = HashMap::from([(shapes[0].0.clone(), vec![1.0; 30]), (shapes[1].0.clone(), vec![1.0; 36])]);
        assert!(target.unpack(dense).is_none());
    }
}
