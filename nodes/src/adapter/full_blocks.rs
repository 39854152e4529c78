//! Full fine-tuning by block: rates of their own, and blocks that stay as they are.

use std::collections::{BTreeSet, HashMap};

use pipe_data::lora_names::{Group, LoraTarget, Wanted, weight_blocks};
use pipe_data::weights::Component;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::blocks::Blocks;
use super::full::learns;
use super::resolve::spread;
use super::size::ByBlock;
use super::targeting::{Fault, layers};

/// A learning rate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LearningRate(#[schemars(range(min = 0.0, max = 10.0))] pub f64);

/// What is said of blocks.
pub struct ByWeight {
    /// Names of the denoiser's weights that stay as they are.
    pub frozen: BTreeSet<String>,
    /// Place and rate of the weights of blocks with one of their own.
    pub rates: HashMap<String, (usize, f64)>,
}

/// Finds the weights that the fields speak of, and what is wrong with the fields.
pub fn find(parts: &Parts, rates: Option<&ByBlock<LearningRate>>, freeze: Option<u64>) -> (ByWeight, Vec<Fault>) {
    let (mut found, mut faults) = (ByWeight { frozen: BTreeSet::new(), rates: HashMap::new() }, Vec::new());
    if rates.is_none() && freeze.is_none() {
        return (found, faults);
    }
    let shapes = parts.network.shapes();
    let own: Vec<LoraTarget> =
        layers(parts, parts.family.denoiser(), Wanted::default()).into_iter().map(|(layer, _)| layer).collect();
    let blocks = Blocks::of(parts.family, &own);
    let names = shapes.iter().map(|(name, _)| name.as_str()).filter(|name| learns(name));
    let places: HashMap<&str, (Group, usize)> = weight_blocks(parts.family, names);
    let places: HashMap<&str, usize> =
        places.into_iter().filter_map(|(name, (group, index))| Some((name, blocks.at(group, index)?))).collect();
    let mut there = vec![false; blocks.len];
    places.values().for_each(|place| there[*place] = true);
    let of_block = spread(&blocks, rates, &there, "block_learning_rates", &mut faults);
    if let Some(ByBlock::Some(map)) = rates
        && map.is_empty()
    {
        let message = "`block_learning_rates` names no block".to_owned();
        faults.push(Fault::idle("block_learning_rates", message, Some("leave it out".into())));
    }
    let last = freeze.map(|count| last_blocks(parts, &blocks, count as usize, &mut faults)).unwrap_or_default();
    for (name, place) in places {
        match of_block[place] {
            _ if last.contains(&place) => {
                found.frozen.insert(name.to_owned());
            }
            Some(LearningRate(0.0)) => {
                found.frozen.insert(name.to_owned());
            }
            Some(LearningRate(rate)) => {
                found.rates.insert(name.to_owned(), (place, rate));
            }
            None => {}
        }
    }
    if let Some(place) = last.iter().find(|place| of_block[**place].is_some())
        && matches!(rates, Some(ByBlock::Some(_)))
    {
        let message = format!("the rate of `{}` has no effect: `freeze_last_blocks` freezes it", blocks.name(*place));
        faults.push(Fault::idle("block_learning_rates", message, None));
    }
    (found, faults)
}

/// Places of the last blocks of a transformer.
fn last_blocks(parts: &Parts, blocks: &Blocks, count: usize, faults: &mut Vec<Fault>) -> BTreeSet<usize> {
    if parts.family.denoiser() == Component::Unet {
        let message = "`freeze_last_blocks` has no effect on a U-Net, whose last blocks are its way up".to_owned();
        let help = "give these blocks the rate 0 in `block_learning_rates`";
        faults.push(Fault::idle("freeze_last_blocks", message, Some(help.into())));
        return BTreeSet::new();
    }
    // In the order in which they are computed; Lumina's refiners come before its layers and have no last one.
    let order: Vec<usize> = [Group::Double, Group::Single, Group::Joint, Group::Layers]
        .into_iter()
        .flat_map(|group| (0..).map_while(move |index| blocks.at(group, index)))
        .collect();
    if count > order.len() {
        let message = format!("the model has {} blocks, not {count}", order.len());
        faults.push(Fault::wrong("freeze_last_blocks", message, None));
    }
    order.into_iter().rev().take(count).collect()
}
