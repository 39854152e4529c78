//! How fast the layers of an adapter learn: `block_rates`, `lora_plus`, and the rates of `patterns`.

use pipe_data::lora_names::LoraTarget;
use pipe_networks::adapters::Rate;

use super::blocks::Blocks;
use super::expressions::Expressions;
use super::resolve::spread;
use super::size::{ByBlock, Weight};
use super::targeting::{Fault, Pattern, Plus, PlusParts, Targeting};

/// The rates of layers, and which fields gave one.
pub(super) struct LayerRates<'t> {
    targeting: &'t Targeting,
    /// Ratios of LoRA+ of the model and of the text encoders, and whether such a layer learns.
    plus: [(f64, bool); 2],
    by_block: Option<Vec<f64>>,
    patterns: &'t [Pattern],
    expressions: Expressions,
    given: Vec<bool>,
}

/// What is said of one layer.
pub(super) struct LayerRate {
    /// Its rate.
    pub rate: Rate,
    /// Its block has the rate 0.
    pub off: bool,
    /// The patterns that match it.
    pub hits: Vec<usize>,
    /// The pattern that its rate is of.
    by: Option<usize>,
}

impl<'t> LayerRates<'t> {
    /// Reads the fields. `kept` are the layers of the model that may be adapted.
    pub(super) fn new(
        targeting: &'t Targeting,
        blocks: &Blocks,
        kept: &[&LoraTarget],
        faults: &mut Vec<Fault>,
    ) -> Self {
        let patterns = targeting.patterns.as_deref().unwrap_or_default();
        for (i, pattern) in patterns.iter().enumerate() {
            if pattern.rank.is_none() && pattern.learning_rate.is_none() {
                let message = format!("the pattern `{}` sets nothing", pattern.expression);
                let help = "give it a `rank` or a `learning_rate`";
                faults.push(Fault::idle(&format!("patterns.{i}"), message, Some(help.into())));
            }
            if pattern.learning_rate == Some(0.0) {
                let message = "layers that learn at a rate of 0 are computed and saved for nothing".to_owned();
                let help = "say `rank: false`, or leave them out by `exclude`";
                faults.push(Fault::wrong(&format!("patterns.{i}.learning_rate"), message, Some(help.into())));
            }
        }
        let ratios = targeting.lora_plus.map_or([1.0; 2], Plus::ratios);
        LayerRates {
            targeting,
            plus: ratios.map(|ratio| (ratio, false)),
            by_block: by_block(targeting.block_rates.as_ref(), blocks, kept, faults),
            patterns,
            expressions: Expressions::new("patterns", patterns.iter().map(|p| p.expression.as_str()), faults),
            given: vec![false; patterns.len()],
        }
    }

    /// What is said of a layer; `place` is its block, of the model's layers.
    pub(super) fn of(&mut self, layer: &LoraTarget, model: bool, place: Option<usize>) -> LayerRate {
        let mut rate = Rate { plus: self.plus[usize::from(!model)].0, ..Rate::default() };
        let mut off = false;
        if let Some((place, factor)) = place.and_then(|p| Some((p, self.by_block.as_ref()?[p]))) {
            rate.factor = factor;
            rate.label = Some(format!("block{place}"));
            off = factor == 0.0;
        }
        let hits = self.expressions.hits(layer);
        let own = hits.iter().find_map(|i| Some((*i, self.patterns[*i].learning_rate?)));
        if let Some((i, own)) = own {
            rate = Rate { label: Some(format!("pattern{i}")), factor: 1.0, absolute: Some(own), ..rate };
        }
        LayerRate { rate, off, hits, by: own.map(|(i, _)| i) }
    }

    /// Remembers that a layer learns at its rate.
    pub(super) fn learns(&mut self, rate: &LayerRate, model: bool) {
        self.plus[usize::from(!model)].1 = true;
        if let Some(i) = rate.by {
            self.given[i] = true;
        }
    }

    /// Whether a pattern matches a layer.
    pub(super) fn matches(&self, pattern: usize) -> bool {
        self.expressions.used(pattern)
    }

    /// Reports what is of no layer. `of` says which layers were looked at.
    pub(super) fn finish(self, of: &str, faults: &mut Vec<Fault>) {
        for (i, pattern) in self.patterns.iter().enumerate() {
            if pattern.learning_rate.is_some() && !self.given[i] && self.expressions.used(i) {
                let message = "this rate has no effect: each layer that it is for gets no adapter, or has its rate from \
                               an earlier pattern";
                faults.push(Fault::idle(&format!("patterns.{i}.learning_rate"), message.into(), None));
            }
        }
        let mut idle = |field: &str, why: &str| {
            let message = format!("`{field}` has no effect: {why}");
            faults.push(Fault::idle(field, message, Some("leave it out".into())));
        };
        if let Some(plus) = self.targeting.lora_plus {
            let (model, text) = match plus {
                Plus::All(_) => (None, None),
                Plus::Parts(PlusParts { model, text }) => (model, text),
            };
            if model.is_some() && !self.plus[0].1 {
                idle("lora_plus.model", "no layer of the model is adapted");
            } else if text.is_some() && !self.plus[1].1 {
                idle("lora_plus.text", "no text encoder is adapted");
            } else if plus.ratios() == [1.0; 2] {
                idle("lora_plus", "at 1 the up factors learn as fast as the down factors");
            }
        }
        self.expressions.unused(of, faults);
    }
}

/// The multiplier of each block.
fn by_block(
    given: Option<&ByBlock<Weight>>,
    blocks: &Blocks,
    kept: &[&LoraTarget],
    faults: &mut Vec<Fault>,
) -> Option<Vec<f64>> {
    let given = given?;
    let mut there = vec![false; blocks.len];
    kept.iter().filter_map(|l| blocks.place(l)).for_each(|p| there[p] = true);
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
    if rates.iter().all(|rate| *rate == 1.0) && faults.is_empty() {
        let message = "`block_rates` has no effect: every block has the rate 1".to_owned();
        faults.push(Fault::idle("block_rates", message, Some("leave it out".into())));
    }
    Some(rates)
}
