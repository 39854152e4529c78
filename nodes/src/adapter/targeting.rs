//! Which layers get an adapter, of which rank and α, and how fast it learns: fields shared by the adapter nodes.

use std::collections::{BTreeMap, HashMap};

use pipe_data::lora_names::{self, LoraTarget, ModuleClass, TargetKind, Wanted};
use pipe_data::weights::Component;
use pipe_networks::adapters::{Kind, Rate, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::blocks::Blocks;
use super::expressions::Expressions;
use super::size::{ByBlock, RankAlpha, Size, Weight};
use crate::common::family;

/// Fields that say what is adapted. Later ones win: `rank`, `conv`, `ranks`, `blocks`, `patterns`; then `include` and
/// `exclude`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Targeting {
    /// Scale numerator α: the adapter's output is multiplied by α/r. Default: the rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1e30))]
    pub alpha: Option<f64>,
    /// U-Nets: also adapt residual blocks and samplers, their 3×3 convolutions with this rank.
    #[serde(default)]
    pub conv: Option<Conv>,
    /// Transformers: also adapt the embedders before the blocks, and SD3's last layer. Default false.
    #[serde(default)]
    pub embedders: bool,
    /// Ranks of the model's layers by type, `false` for none: `{ img_attn: 8, txt_mod: false }`.
    #[serde(default)]
    pub ranks: Option<BTreeMap<String, Size>>,
    /// Ranks by block, `false` for none: `{ down.4: 8, double.0-9: 4 }`, or a list of all blocks. 3×3 convolutions have
    /// their own in `conv`.
    #[serde(default)]
    pub blocks: Option<ByBlock<Size>>,
    /// Ranks of text encoders, `false` for none: `{ clip_l: 8, t5xxl: 4 }`. Default: `rank`.
    #[serde(default)]
    pub text_ranks: Option<BTreeMap<String, Size>>,
    /// Ranks and learning rates by regular expressions; for each, the first that finds itself in a layer's name counts.
    #[serde(default)]
    pub patterns: Option<Vec<Pattern>>,
    /// Only layers in whose name one of these regular expressions finds itself.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub include: Option<Vec<String>>,
    /// No layers in whose name one of these regular expressions finds itself.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub exclude: Option<Vec<String>>,
    /// Multipliers of the learning rate by block: `{ down: { curve: sine, base: 0.25 }, up.0-5: 0.5 }`, or a list of all
    /// blocks. A block with 0 gets no adapter.
    #[serde(default)]
    pub block_rates: Option<ByBlock<Weight>>,
    /// LoRA+ (Hayou et al. 2024): the up factors learn so many times faster.
    #[serde(default)]
    pub lora_plus: Option<Plus>,
}

/// Rank and α of 3×3 convolutions.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Conv {
    /// Rank.
    #[schemars(range(min = 1, max = 4096))]
    pub rank: u64,
    /// Scale numerator α. Default: this rank.
    #[serde(default)]
    #[schemars(range(min = 0.000001, max = 1000000.0))]
    pub alpha: Option<f64>,
    /// Ranks of the 3×3 convolutions by block, as in the adapter's `blocks`.
    #[serde(default)]
    pub blocks: Option<ByBlock<Size>>,
}

/// What a regular expression sets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Pattern {
    /// Regular expression, searched in the layer's name in files (`lora_unet_…`) and in its path in the model.
    #[serde(rename = "match")]
    pub expression: String,
    /// Rank, `false` for no adapter. Default: as without this pattern.
    #[serde(default)]
    pub rank: Option<Size>,
    /// Learning rate of these layers, in place of the optimizer's. Default: as without this pattern.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: Option<f64>,
}

/// LoRA+ ratios.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Plus {
    /// One for all parts.
    All(#[schemars(range(min = 0.001, max = 10000.0))] f64),
    /// By part.
    Parts(PlusParts),
}

/// LoRA+ ratios by part.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct PlusParts {
    /// Of the model's adapters. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 10000.0))]
    pub model: Option<f64>,
    /// Of the text encoders' adapters. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 10000.0))]
    pub text: Option<f64>,
}

impl Plus {
    /// Ratios of the model and the text encoders.
    fn ratios(self) -> [f64; 2] {
        match self {
            Plus::All(ratio) => [ratio; 2],
            Plus::Parts(PlusParts { model, text }) => [model.unwrap_or(1.0), text.unwrap_or(1.0)],
        }
    }
}

/// Something wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Its code.
    pub code: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Fault {
    /// An option without effect.
    pub fn idle(field: &str, message: String, help: Option<String>) -> Self {
        Fault { code: "P0402", field: field.into(), message, help }
    }
    /// A value that does not fit.
    pub fn wrong(field: &str, message: String, help: Option<String>) -> Self {
        Fault { code: "P0403", field: field.into(), message, help }
    }
}

/// Ranks and kinds for [`Targeting::resolve`].
pub struct Plan<'a> {
    /// Rank of layers that nothing else is said of.
    pub rank: u64,
    /// Kind of adapter of a layer of this component.
    pub kind: &'a dyn Fn(&LoraTarget, Component) -> Kind,
}

/// The layers of a part with the shapes of their weights.
pub fn layers(parts: &Parts, component: Component, wanted: Wanted) -> Vec<(LoraTarget, Vec<usize>)> {
    let shapes = parts.components().into_iter().find(|(c, _)| *c == component).map(|(_, s)| s).unwrap_or_default();
    let by_name: HashMap<&str, &Vec<usize>> = shapes.iter().map(|(n, s)| (n.as_str(), s)).collect();
    let named = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
    let with_shape = |layer: LoraTarget| {
        let shape = by_name.get(format!("{}.weight", layer.path).as_str())?.to_vec();
        Some((layer, shape))
    };
    lora_names::targets(parts.family, component, named, wanted).into_iter().filter_map(with_shape).collect()
}

/// The name that settings have for a text encoder of a family.
pub fn text_name(parts: &Parts, component: Component) -> &'static str {
    family::encoder_type(parts.family, component).trim_start_matches("encoder.")
}

impl Targeting {
    /// Layers wanted besides the usual ones.
    pub fn wanted(&self) -> Wanted {
        Wanted { conv: self.conv.is_some(), embedders: self.embedders }
    }

    /// The adapted layers, and everything wrong with the fields.
    pub fn resolve(&self, parts: &Parts, plan: &Plan) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = Vec::new();
        let denoiser = parts.family.denoiser();
        let own = layers(parts, denoiser, self.wanted());
        let found: Vec<LoraTarget> = own.iter().map(|(l, _)| l.clone()).collect();
        let blocks = Blocks::of(parts.family, &found);
        let classes = self.classes(&found, parts, &mut faults);
        let is_conv = |l: &LoraTarget| matches!(l.kind, TargetKind::Conv { .. });
        let places = |conv: bool| {
            let mut there = vec![false; blocks.len];
            for place in found.iter().filter(|l| is_conv(l) == conv).filter_map(|l| blocks.place(l)) {
                there[place] = true;
            }
            there
        };
        let by_block = spread(&blocks, self.blocks.as_ref(), &places(false), "blocks", &mut faults);
        let conv_blocks = self.conv.as_ref().and_then(|c| c.blocks.as_ref());
        let by_conv_block = spread(&blocks, conv_blocks, &places(true), "conv.blocks", &mut faults);
        let rates = self.rates(&blocks, &found, &mut faults);
        let texts = self.texts(parts, &mut faults);
        let patterns = self.patterns.as_deref().unwrap_or_default();
        let mut patterns = Expressions::new("patterns", patterns.iter().map(|p| p.expression.as_str()), &mut faults);
        let lists = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let (include, exclude) = (lists(&self.include), lists(&self.exclude));
        let mut include = Expressions::new("include", include.iter().map(String::as_str), &mut faults);
        let mut exclude = Expressions::new("exclude", exclude.iter().map(String::as_str), &mut faults);
        let plus = self.lora_plus.map_or([1.0; 2], Plus::ratios);
        self.without_effect(parts, &mut faults);

        let mut targets = Vec::new();
        for (component, _) in parts.components() {
            let model = component == denoiser;
            for (layer, weight) in if model { own.clone() } else { layers(parts, component, self.wanted()) } {
                let place = blocks.place(&layer).filter(|_| model);
                let mut size = if model {
                    let class = classes.get(&layer.class).copied();
                    let block = place.and_then(|p| if is_conv(&layer) { by_conv_block[p] } else { by_block[p] });
                    self.size(&layer, class, block, plan.rank)
                } else {
                    let size = texts.get(&component).copied().unwrap_or(Size::Rank(plan.rank));
                    size.get()
                };
                let mut rate = Rate { plus: plus[usize::from(!model)], ..Rate::default() };
                if let Some((place, factor)) = place.and_then(|p| Some((p, rates.as_ref()?[p]))) {
                    rate.factor = factor;
                    rate.label = Some(format!("block{place}"));
                    size = size.filter(|_| factor > 0.0);
                }
                let all = self.patterns.as_deref().unwrap_or_default();
                let hits = patterns.hits(&layer);
                if let Some(found) = hits.iter().find_map(|i| all[*i].rank) {
                    size = found.get();
                }
                if let Some((i, own)) = hits.iter().find_map(|i| Some((*i, all[*i].learning_rate?))) {
                    rate = Rate { label: Some(format!("pattern{i}")), factor: 1.0, absolute: Some(own), ..rate };
                }
                let kept = !include.any() || !include.hits(&layer).is_empty();
                let left_out = !exclude.hits(&layer).is_empty();
                let Some(size) = size.filter(|_| kept && !left_out) else { continue };
                targets.push(Target {
                    part: family::part(component).into(),
                    weight,
                    rank: size.rank as usize,
                    alpha: size.alpha.or(self.alpha).unwrap_or(size.rank as f64) as f32,
                    kind: (plan.kind)(&layer, component),
                    rate,
                    name: layer.name,
                    path: layer.path,
                });
            }
        }
        for list in [patterns, include, exclude] {
            list.unused(&mut faults);
        }
        if targets.is_empty() && faults.is_empty() {
            faults.push(Fault::wrong("", "no layer is left to adapt".into(), None));
        }
        (targets, faults)
    }

    /// Values that change nothing.
    fn without_effect(&self, parts: &Parts, faults: &mut Vec<Fault>) {
        if let Some(Plus::Parts(PlusParts { text: Some(_), .. })) = self.lora_plus
            && parts.texts.is_empty()
        {
            let message = "`lora_plus.text` has no effect: no text encoder is adapted".to_owned();
            faults.push(Fault::idle("lora_plus.text", message, Some("leave it out".into())));
        }
        for (i, pattern) in self.patterns.iter().flatten().enumerate() {
            if pattern.rank.is_none() && pattern.learning_rate.is_none() {
                let message = format!("the pattern `{}` sets nothing", pattern.expression);
                faults.push(Fault::idle(
                    &format!("patterns.{i}"),
                    message,
                    Some("give it a `rank` or a `learning_rate`".into()),
                ));
            }
        }
    }

    /// Rank and α of a layer of the model. `false` by type counts whatever the block says.
    fn size(&self, layer: &LoraTarget, class: Option<Size>, block: Option<Size>, rank: u64) -> Option<RankAlpha> {
        let usual = match (layer.kind, &self.conv) {
            (TargetKind::Conv { .. }, Some(conv)) => {
                RankAlpha { rank: conv.rank, alpha: conv.alpha.or(Some(conv.rank as f64)) }
            }
            _ => RankAlpha { rank, alpha: None },
        };
        let class = class.map_or(Some(usual), Size::get)?;
        block.map_or(Some(class), Size::get)
    }

    fn classes(&self, found: &[LoraTarget], parts: &Parts, faults: &mut Vec<Fault>) -> HashMap<ModuleClass, Size> {
        let mut known: Vec<ModuleClass> = found.iter().map(|l| l.class).collect();
        known.sort();
        known.dedup();
        let mut out = HashMap::new();
        for (name, size) in self.ranks.iter().flatten() {
            match ModuleClass::from_name(name).filter(|class| known.contains(class)) {
                Some(class) => {
                    out.insert(class, *size);
                }
                None => {
                    let names: Vec<String> = known.iter().map(|c| format!("`{}`", c.name())).collect();
                    let message = format!("{} has no adapted layers of type `{name}`", parts.family);
                    let help = format!("the types here are {}", names.join(", "));
                    faults.push(Fault::wrong(&format!("ranks.{name}"), message, Some(help)));
                }
            }
        }
        out
    }

    fn rates(&self, blocks: &Blocks, found: &[LoraTarget], faults: &mut Vec<Fault>) -> Option<Vec<f64>> {
        let mut there = vec![false; blocks.len];
        found.iter().filter_map(|l| blocks.place(l)).for_each(|p| there[p] = true);
        let given = self.block_rates.as_ref()?;
        let mut rates = vec![1.0; blocks.len];
        // Which blocks a key covers is told by spreading the keys; then each key's own numbers are laid over them.
        let keys = match given {
            ByBlock::Some(map) => ByBlock::Some(map.keys().map(|k| (k.clone(), k.clone())).collect()),
            ByBlock::All(list) => ByBlock::All(vec![String::new(); list.len()]),
        };
        spread(blocks, Some(&keys), &there, "block_rates", faults);
        match given {
            ByBlock::All(list) => {
                for (i, (rate, weight)) in rates.iter_mut().zip(list).enumerate() {
                    match weight {
                        Weight::One(w) => *rate = *w,
                        _ => {
                            let message = "a list of all blocks has one number each".to_owned();
                            faults.push(Fault::wrong(&format!("block_rates.{i}"), message, None));
                        }
                    }
                }
            }
            ByBlock::Some(map) => {
                for (key, weight) in map {
                    let Ok(places) = blocks.select(key) else { continue };
                    match weight.over(places.len()) {
                        Ok(list) => places.iter().zip(list).for_each(|(place, w)| rates[*place] = w),
                        Err(n) => {
                            let message = format!("`{key}` are {} blocks, the list has {n} numbers", places.len());
                            faults.push(Fault::wrong(&format!("block_rates.{key}"), message, None));
                        }
                    }
                }
            }
        }
        Some(rates)
    }

    fn texts(&self, parts: &Parts, faults: &mut Vec<Fault>) -> HashMap<Component, Size> {
        let known: Vec<(Component, &str)> = parts.texts.iter().map(|(c, _)| (*c, text_name(parts, *c))).collect();
        let mut out = HashMap::new();
        for (name, size) in self.text_ranks.iter().flatten() {
            match known.iter().find(|(_, own)| own == name) {
                Some((component, _)) => {
                    out.insert(*component, *size);
                }
                None => {
                    let names: Vec<String> = known.iter().map(|(_, n)| format!("`{n}`")).collect();
                    let help = match names.is_empty() {
                        true => "give the adapter text encoders (`text: …`), or leave this out".to_owned(),
                        false => format!("the text encoders here are {}", names.join(", ")),
                    };
                    let message = format!("no text encoder `{name}` is adapted here");
                    faults.push(Fault::idle(&format!("text_ranks.{name}"), message, Some(help)));
                }
            }
        }
        out
    }
}

fn spread<T: Clone>(
    blocks: &Blocks,
    values: Option<&ByBlock<T>>,
    there: &[bool],
    field: &str,
    faults: &mut Vec<Fault>,
) -> Vec<Option<T>> {
    let Some(values) = values else { return vec![None; blocks.len] };
    blocks.spread(values, there, |key, message| {
        let field = if key.is_empty() { field.to_owned() } else { format!("{field}.{key}") };
        let help = format!("the blocks of this model are {}", blocks.describe());
        faults.push(Fault::wrong(&field, message, Some(help)));
    })
}
