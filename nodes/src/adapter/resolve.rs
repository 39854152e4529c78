//! Finds the adapted layers from the fields of a [`Targeting`], and the fields that change none.

use std::collections::{HashMap, HashSet};

use pipe_data::lora_names::{LoraTarget, ModuleClass, TargetKind};
use pipe_data::weights::Component;
use pipe_networks::adapters::Target;

use super::Parts;
use super::blocks::Blocks;
use super::expressions::Expressions;
use super::layer_rates::LayerRates;
use super::size::{ByBlock, RankAlpha, Size};
use super::targeting::{Fault, Plan, Targeting, layers, text_name};
use crate::common::family;

/// A layer with the shape of its weight.
type Shaped = (LoraTarget, Vec<usize>);

/// What gave a layer its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Rank,
    Conv,
    Class(ModuleClass),
    Block(usize),
    ConvBlock(usize),
    Text(Component),
    Pattern(usize),
}

/// The layers that `include` and `exclude` leave.
struct Filter {
    include: Expressions,
    exclude: Expressions,
}

impl Filter {
    fn new(targeting: &Targeting, faults: &mut Vec<Fault>) -> Self {
        let texts = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let (include, exclude) = (texts(&targeting.include), texts(&targeting.exclude));
        Filter {
            include: Expressions::new("include", include.iter().map(String::as_str), faults),
            exclude: Expressions::new("exclude", exclude.iter().map(String::as_str), faults),
        }
    }
    fn keeps(&mut self, layer: &LoraTarget) -> bool {
        let included = !self.include.any() || !self.include.hits(layer).is_empty();
        let excluded = !self.exclude.hits(layer).is_empty();
        included && !excluded
    }
}

fn is_conv(layer: &LoraTarget) -> bool {
    matches!(layer.kind, TargetKind::Conv { .. })
}

impl Targeting {
    /// The adapted layers, and everything wrong with the fields.
    pub fn resolve(&self, parts: &Parts, plan: &Plan) -> (Vec<Target>, Vec<Fault>) {
        let mut faults = Vec::new();
        let denoiser = parts.family.denoiser();
        let mut filter = Filter::new(self, &mut faults);
        let all: Vec<_> = parts.components().into_iter().map(|(c, _)| (c, layers(parts, c, self.wanted()))).collect();
        let own: Vec<LoraTarget> = all
            .iter()
            .filter(|(c, _)| *c == denoiser)
            .flat_map(|(_, list)| list.iter().map(|(l, _)| l.clone()))
            .collect();
        let blocks = Blocks::of(parts.family, &own);
        let lists: Vec<(Component, Vec<Shaped>)> = all
            .into_iter()
            .map(|(c, list)| (c, list.into_iter().filter(|(layer, _)| filter.keeps(layer)).collect()))
            .collect();
        let kept: Vec<&LoraTarget> =
            lists.iter().filter(|(c, _)| *c == denoiser).flat_map(|(_, list)| list.iter().map(|(l, _)| l)).collect();
        let mut sizes = Sizes::new(self, parts, plan, &blocks, &kept, &mut faults);
        let mut rates = LayerRates::new(self, &blocks, &kept, &mut faults);

        let mut targets = Vec::new();
        let mut odd = None;
        for (component, list) in &lists {
            let model = *component == denoiser;
            for (layer, weight) in list {
                let place = blocks.place(layer).filter(|_| model);
                let rate = rates.of(layer, model, place);
                if rate.off {
                    continue;
                }
                let (size, source) = sizes.of(layer, (!model).then_some(*component), place, &rate.hits);
                sizes.used.insert(source);
                let Some(size) = size else { continue };
                rates.learns(&rate, model);
                if !size.rank.is_multiple_of(plan.unit) {
                    odd.get_or_insert((source, size.rank, layer.name.clone()));
                }
                targets.push(Target {
                    part: family::part(*component).into(),
                    path: layer.path.clone(),
                    name: layer.name.clone(),
                    weight: weight.clone(),
                    rank: size.rank as usize,
                    alpha: sizes.alpha(layer, size) as f32,
                    kind: (plan.kind)(layer, *component),
                    rate: rate.rate,
                    scalar: false,
                });
            }
        }
        // What is idle since nothing is left is no second fault.
        let left = !targets.is_empty();
        if left {
            sizes.idle(&rates, &mut faults);
        }
        let filtered = filter.include.any() || filter.exclude.any();
        let of = if filtered { " that `include` and `exclude` leave" } else { "" };
        filter.include.unused("", &mut faults);
        filter.exclude.unused("", &mut faults);
        if left {
            rates.finish(of, &mut faults);
        } else if faults.is_empty() {
            faults.push(Fault::wrong("", "no layer is left to adapt".into(), None));
        }
        if let Some((source, rank, name)) = odd {
            let field = sizes.field(source).unwrap_or_else(|| "unit".into());
            let message = format!("rank {rank} of `{name}` is no multiple of `unit`, {}", plan.unit);
            faults.push(Fault::wrong(&field, message, None));
        }
        (targets, faults)
    }
}

/// The ranks of layers, and which fields gave one.
struct Sizes<'t> {
    targeting: &'t Targeting,
    plan: &'t Plan<'t>,
    parts: &'t Parts,
    blocks: &'t Blocks,
    classes: HashMap<ModuleClass, Size>,
    by_block: Vec<Option<Size>>,
    by_conv_block: Vec<Option<Size>>,
    texts: HashMap<Component, Size>,
    used: HashSet<Source>,
    /// Whether `alpha` and `conv.alpha` are of a layer.
    alphas: [bool; 2],
}

impl<'t> Sizes<'t> {
    fn new(
        targeting: &'t Targeting,
        parts: &'t Parts,
        plan: &'t Plan<'t>,
        blocks: &'t Blocks,
        kept: &[&LoraTarget],
        faults: &mut Vec<Fault>,
    ) -> Self {
        let places = |conv: bool| {
            let mut there = vec![false; blocks.len];
            kept.iter().filter(|l| is_conv(l) == conv).filter_map(|l| blocks.place(l)).for_each(|p| there[p] = true);
            there
        };
        let conv_blocks = targeting.conv.as_ref().and_then(|c| c.blocks.as_ref());
        for (field, values) in [("blocks", targeting.blocks.as_ref()), ("conv.blocks", conv_blocks)] {
            if let Some(ByBlock::Some(map)) = values
                && map.is_empty()
            {
                faults.push(Fault::idle(field, format!("`{field}` names no block"), Some("leave it out".into())));
            }
        }
        Sizes {
            targeting,
            plan,
            parts,
            blocks,
            classes: classes(targeting, kept, parts, faults),
            by_block: spread(blocks, targeting.blocks.as_ref(), &places(false), "blocks", faults),
            by_conv_block: spread(blocks, conv_blocks, &places(true), "conv.blocks", faults),
            texts: texts(targeting, parts, faults),
            used: HashSet::new(),
            alphas: [false; 2],
        }
    }

    /// Rank and α of a layer, and what gave it. `false` by type counts whatever the block says.
    fn of(
        &self,
        layer: &LoraTarget,
        text: Option<Component>,
        place: Option<usize>,
        hits: &[usize],
    ) -> (Option<RankAlpha>, Source) {
        let patterns = self.targeting.patterns.as_deref().unwrap_or_default();
        if let Some((i, size)) = hits.iter().find_map(|i| Some((*i, patterns[*i].rank?))) {
            return (size.get(), Source::Pattern(i));
        }
        if let Some(component) = text {
            return match self.texts.get(&component) {
                Some(size) => (size.get(), Source::Text(component)),
                None => (Some(RankAlpha { rank: self.plan.rank, alpha: None }), Source::Rank),
            };
        }
        let class = self.classes.get(&layer.class).map(|size| (size.get(), Source::Class(layer.class)));
        let block = place.and_then(|p| match is_conv(layer) {
            true => Some((self.by_conv_block[p]?.get(), Source::ConvBlock(p))),
            false => Some((self.by_block[p]?.get(), Source::Block(p))),
        });
        if let Some(none @ (None, _)) = class {
            return none;
        }
        block.or(class).unwrap_or(match &self.targeting.conv {
            Some(conv) if is_conv(layer) => (Some(RankAlpha { rank: conv.rank, alpha: None }), Source::Conv),
            _ => (Some(RankAlpha { rank: self.plan.rank, alpha: None }), Source::Rank),
        })
    }

    /// α of a layer: its own, that of all, or the rank.
    fn alpha(&mut self, layer: &LoraTarget, size: RankAlpha) -> f64 {
        let conv = is_conv(layer);
        let usual = match conv {
            true => self.targeting.conv.as_ref().and_then(|c| c.alpha),
            false => self.targeting.alpha,
        };
        self.alphas[usize::from(conv)] |= size.alpha.is_none();
        size.alpha.or(usual).unwrap_or(size.rank as f64)
    }

    /// The field that is a source; nothing for the rank where the document gives none.
    fn field(&self, source: Source) -> Option<String> {
        let of_block = |field: &str, values: Option<&ByBlock<Size>>, place: usize| match values {
            Some(ByBlock::Some(map)) => {
                let key = map.keys().find(|k| self.blocks.select(k).is_ok_and(|p| p.contains(&place)))?;
                Some(format!("{field}.{key}"))
            }
            _ => Some(format!("{field}.{place}")),
        };
        match source {
            Source::Rank => self.plan.given.then(|| "rank".into()),
            Source::Conv => Some("conv.rank".into()),
            Source::Class(class) => Some(format!("ranks.{}", class.name())),
            Source::Block(place) => of_block("blocks", self.targeting.blocks.as_ref(), place),
            Source::ConvBlock(place) => {
                of_block("conv.blocks", self.targeting.conv.as_ref().and_then(|c| c.blocks.as_ref()), place)
            }
            Source::Text(component) => Some(format!("text_ranks.{}", text_name(self.parts, component))),
            Source::Pattern(i) => Some(format!("patterns.{i}.rank")),
        }
    }

    /// Reports the fields that gave no layer anything.
    fn idle(&self, rates: &LayerRates, faults: &mut Vec<Fault>) {
        // A block that is named is looked at above; one of a list may have no layers.
        let mut given: Vec<Source> = vec![Source::Rank];
        given.extend(self.classes.keys().map(|class| Source::Class(*class)));
        given.extend(self.texts.keys().map(|component| Source::Text(*component)));
        let patterns = self.targeting.patterns.iter().flatten().enumerate();
        given.extend(patterns.filter(|(i, p)| p.rank.is_some() && rates.matches(*i)).map(|(i, _)| Source::Pattern(i)));
        let mut fields: Vec<String> =
            given.into_iter().filter(|s| !self.used.contains(s)).filter_map(|s| self.field(s)).collect();
        let conv_blocks = self.targeting.conv.as_ref().and_then(|c| c.blocks.as_ref());
        let places = |s: &Source| match s {
            Source::Block(p) => Some((false, *p)),
            Source::ConvBlock(p) => Some((true, *p)),
            _ => None,
        };
        let used: HashSet<(bool, usize)> = self.used.iter().filter_map(places).collect();
        for (field, conv, values) in
            [("blocks", false, self.targeting.blocks.as_ref()), ("conv.blocks", true, conv_blocks)]
        {
            let Some(ByBlock::Some(map)) = values else { continue };
            for key in map.keys() {
                let places = self.blocks.select(key).unwrap_or_default();
                if !places.iter().any(|p| used.contains(&(conv, *p))) {
                    fields.push(format!("{field}.{key}"));
                }
            }
        }
        let conv = self.targeting.conv.as_ref().and_then(|c| c.alpha);
        for (field, set, used) in
            [("alpha", self.targeting.alpha, self.alphas[0]), ("conv.alpha", conv, self.alphas[1])]
        {
            if set.is_some() && !used {
                fields.push(field.into());
            }
        }
        fields.sort();
        for field in fields {
            if faults.iter().all(|fault| fault.field != field) {
                let message = format!("`{field}` has no effect: other fields decide on every layer that it speaks of");
                faults.push(Fault::idle(&field, message, Some("leave it out".into())));
            }
        }
    }
}

fn classes(
    targeting: &Targeting,
    kept: &[&LoraTarget],
    parts: &Parts,
    faults: &mut Vec<Fault>,
) -> HashMap<ModuleClass, Size> {
    let mut known: Vec<ModuleClass> = kept.iter().map(|l| l.class).collect();
    known.sort();
    known.dedup();
    let mut out = HashMap::new();
    for (name, size) in targeting.ranks.iter().flatten() {
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

fn texts(targeting: &Targeting, parts: &Parts, faults: &mut Vec<Fault>) -> HashMap<Component, Size> {
    let known: Vec<(Component, &str)> = parts.texts.iter().map(|(c, _)| (*c, text_name(parts, *c))).collect();
    let mut out = HashMap::new();
    for (name, size) in targeting.text_ranks.iter().flatten() {
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

/// The value of each block, with what is wrong with the keys.
pub(super) fn spread<T: Clone>(
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
