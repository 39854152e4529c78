//! LoRA files of another rank: each layer's ΔW is replaced by its best approximation (Eckart and Young 1936).

use std::collections::{BTreeMap, BTreeSet};

use pipe_data::weights::DType;

use crate::adapter::file::{OF_NO_LAYER, Tensor};
use crate::adapter::{AdapterFile, Layer, Pair, Tensors};
use crate::error::{Result, ToolError};
use crate::linear::{Svd, of_product};
use crate::metadata;
use crate::output::Output;

/// Ranks of linear layers and of convolutions larger than 1×1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Of linear layers.
    pub linear: usize,
    /// Of convolutions.
    pub conv: usize,
}

impl Ranks {
    /// Refuses a rank of convolutions where there are none.
    ///
    /// # Errors
    /// P0402.
    pub fn heard(self, convolutions: bool) -> Result<()> {
        if convolutions || self.conv == self.linear {
            return Ok(());
        }
        let message = "`--conv-rank` has no effect: no layer is a convolution with a kernel larger than 1×1";
        Err(ToolError::new("P0402", message).help("leave it out"))
    }

    /// The one for a layer.
    pub fn of(self, conv: bool) -> usize {
        if conv { self.conv } else { self.linear }
    }
}

/// How the rank of each layer is found, with singular values σ in falling order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dynamic {
    /// Values above `σ₁ / ratio`.
    Ratio(f64),
    /// As few as keep this part of the Frobenius norm.
    Frobenius(f64),
    /// As few as keep this part of the sum of all values.
    Cumulative(f64),
}

impl Dynamic {
    /// Name and value, as metadata tell them.
    pub fn text(self) -> (&'static str, f64) {
        match self {
            Dynamic::Ratio(x) => ("sv_ratio", x),
            Dynamic::Frobenius(x) => ("sv_fro", x),
            Dynamic::Cumulative(x) => ("sv_cumulative", x),
        }
    }

    /// The rank for these singular values, at least 1.
    fn rank(self, values: &[f64]) -> usize {
        let largest = values.first().copied().unwrap_or(0.0);
        // What other programs take for nothing.
        if largest <= 1e-6 {
            return 1;
        }
        let fewest = |part: f64, of: &dyn Fn(f64) -> f64| {
            let total: f64 = values.iter().map(|s| of(*s)).sum();
            let mut sum = 0.0;
            // As many as lie before the part is reached, and one more.
            let before = values.iter().take_while(|s| {
                sum += of(**s);
                sum < part * total
            });
            (before.count() + 1).min(values.len())
        };
        let rank = match self {
            Dynamic::Ratio(ratio) => values.iter().filter(|s| **s > largest / ratio).count(),
            Dynamic::Frobenius(part) => fewest(part * part, &|s| s * s),
            Dynamic::Cumulative(part) => fewest(part, &|s| s),
        };
        rank.max(1)
    }
}

/// How much of the norm was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Layers in the result.
    pub layers: usize,
    /// Layers too small for the rank that was asked for, which have their largest.
    pub lowered: usize,
    /// By block: layers, sum of the kept parts of the norm, sums of the ranks before and after.
    pub blocks: BTreeMap<String, Block>,
}

/// What was kept in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Block {
    /// Layers.
    pub layers: usize,
    /// Sum of the parts of the Frobenius norm that are kept, each from 0 to 1.
    pub kept: f64,
    /// Sum of the ranks before.
    pub before: usize,
    /// Sum of the ranks after.
    pub after: usize,
}

impl Kept {
    /// Adds a layer.
    pub fn add(&mut self, name: &str, kept: f64, before: usize, after: usize) {
        let block = self.blocks.entry(block_of(name)).or_default();
        block.layers += 1;
        block.kept += kept;
        block.before += before;
        block.after += after;
    }

    /// Mean of all layers.
    pub fn mean(&self) -> f64 {
        let layers: usize = self.blocks.values().map(|block| block.layers).sum();
        self.blocks.values().map(|block| block.kept).sum::<f64>() / layers.max(1) as f64
    }
}

/// The block of a layer: its name up to the first number.
pub fn block_of(name: &str) -> String {
    let end = |separator: char| {
        let mut at = 0;
        for part in name.split(separator) {
            at += part.len();
            if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
                return Some(at);
            }
            at += 1;
        }
        None
    };
    let separator = if name.contains('.') { '.' } else { '_' };
    end(separator).map_or_else(|| name.to_owned(), |at| name[..at].to_owned())
}

/// What is resized, and how.
#[derive(Clone, Copy, Debug)]
pub struct Resize {
    /// Ranks; with `dynamic` the largest allowed.
    pub ranks: Ranks,
    /// Find the rank of each layer.
    pub dynamic: Option<Dynamic>,
    /// Element type; nothing: that of the file.
    pub dtype: Option<DType>,
}

/// Changes the ranks of a LoRA file. Scales stay: α becomes `scale · new rank`.
///
/// # Errors
/// P0302 for layers that are no pairs of factors, P0320 for tensors of no layer.
pub fn resize(file: &AdapterFile, what: Resize, output: &Output) -> Result<Kept> {
    if !file.others.is_empty() {
        return Err(file.unknown(&file.others, OF_NO_LAYER));
    }
    let mut tensors = Tensors::new(what.dtype.unwrap_or_else(|| file.dtype()));
    let mut kept = Kept { layers: file.layers.len(), ..Kept::default() };
    let (mut linear, mut convolutions) = (BTreeSet::new(), false);
    let pairs = file.layers.values().any(|layer| layer.has(Tensor::Down));
    for (name, layer) in &file.layers {
        // Norms that learnt beside a LoRA stay as they are.
        if pairs && layer.is(&[], &[Tensor::Diff, Tensor::DiffBias]) && !layer.has(Tensor::Alpha) {
            for (tensor, own) in &layer.0 {
                let shape = file.shape(layer, *tensor).unwrap_or_default().to_vec();
                tensors.push(own.clone(), shape, &file.values(layer, *tensor)?);
            }
            kept.layers -= 1;
            continue;
        }
        let mut pair = Pair::read(file, name, layer)?;
        // Without a tensor for α the scale would be another with another rank.
        if !layer.has(Tensor::Alpha) {
            pair = pair.folded();
        }
        let (up, down) = pair.matrices();
        let svd = of_product(&up, &down);
        let rank = rank_of(&svd, what, &pair);
        kept.lowered += usize::from(what.dynamic.is_none() && rank < what.ranks.of(pair.is_conv()));
        convolutions |= pair.is_conv();
        if !pair.is_conv() {
            linear.insert(rank);
        }
        kept.add(name, svd.kept(rank), pair.rank, rank);
        let scale = pair.scale();
        let (up, down) = svd.factors(rank);
        let pair = Pair { rank, up, down, alpha: (scale * rank as f64) as f32, ..pair };
        push_as(&mut tensors, file, layer, &pair);
    }
    what.ranks.heard(convolutions)?;
    let mut map = file.metadata().clone();
    describe(&mut map, what, &linear, file);
    metadata::stamp(&mut map, &[]);
    tensors.write(output, map)?;
    Ok(kept)
}

fn rank_of(svd: &Svd, what: Resize, pair: &Pair) -> usize {
    let most = pair.possible(what.ranks.of(pair.is_conv()));
    match what.dynamic {
        None => most,
        Some(dynamic) => dynamic.rank(&svd.values).min(most),
    }
}

/// Adds a layer with the spelling that it has in its file.
fn push_as(tensors: &mut Tensors, file: &AdapterFile, layer: &Layer, pair: &Pair) {
    let name = |tensor: Tensor| layer.0.get(&tensor).cloned().unwrap_or_default();
    tensors.push(name(Tensor::Down), pair.down_shape(), &pair.down);
    tensors.push(name(Tensor::Up), pair.up_shape(), &pair.up);
    if layer.has(Tensor::Alpha) {
        tensors.push_alpha(name(Tensor::Alpha), pair.alpha);
    }
    if let Some(magnitude) = &pair.magnitude {
        let shape = file.shape(layer, Tensor::Magnitude).unwrap_or_default().to_vec();
        tensors.push(name(Tensor::Magnitude), shape, magnitude);
    }
}

/// Rank and α in the metadata, and a note in the comment, as the tools of sd-scripts write them; `linear` are the ranks
/// that linear layers have now.
fn describe(map: &mut BTreeMap<String, String>, what: Resize, linear: &BTreeSet<usize>, file: &AdapterFile) {
    map.remove("lora_adapter_metadata");
    let before = map.get("ss_network_dim").cloned().unwrap_or_else(|| "None".into());
    let comment = map.get("ss_training_comment").filter(|text| *text != "None").cloned().unwrap_or_default();
    let (rank, alpha, note) = match what.dynamic {
        Some(dynamic) => {
            let (name, value) = dynamic.text();
            ("Dynamic".to_owned(), "Dynamic".to_owned(), format!("Dynamic resize with {name}: {value} from {before}"))
        }
        None => {
            let note = format!("dimension is resized from {before} to {}", what.ranks.linear);
            let rank = linear.first().copied().unwrap_or(what.ranks.linear);
            let scale = first_scale(file).unwrap_or(1.0);
            match linear.len() {
                // Small layers have lower ranks than the others.
                2.. => ("Dynamic".to_owned(), "Dynamic".to_owned(), note),
                _ => (rank.to_string(), pipe_data::metadata::py_float(scale * rank as f64), note),
            }
        }
    };
    map.insert("ss_network_dim".into(), rank);
    map.insert("ss_network_alpha".into(), alpha);
    map.insert("ss_training_comment".into(), if comment.is_empty() { note } else { format!("{note}; {comment}") });
    // Ranks by block or by type no longer hold.
    if let Some(args) = map.get("ss_network_args").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok())
    {
        let mut args = args.as_object().cloned().unwrap_or_default();
        let of_rank =
            |key: &str| key.ends_with("dim") || key.ends_with("dims") || key.contains("alpha") || key == "unit";
        args.retain(|key, _| !of_rank(key));
        if what.dynamic.is_none() && what.ranks.conv != what.ranks.linear {
            args.insert("conv_dim".into(), what.ranks.conv.to_string().into());
        }
        map.insert("ss_network_args".into(), serde_json::Value::Object(args).to_string());
    }
    if map.get("ss_network_module").is_some_and(|module| module == "networks.dylora") {
        map.insert("ss_network_module".into(), "networks.lora".into());
    }
}

/// Scale of the first layer.
fn first_scale(file: &AdapterFile) -> Option<f64> {
    let (name, layer) = file.layers.first()?;
    let rank = file.shape(layer, Tensor::Up)?.get(1).copied().filter(|rank| *rank > 0)?;
    Some(file.alpha(name, layer, rank).ok()??.into()).map(|alpha: f64| alpha / rank as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_singular_values() {
        let values = [8.0, 4.0, 2.0, 1.0];
        let rank = |dynamic: Dynamic| dynamic.rank(&values);
        assert_eq!([Dynamic::Ratio(1.5), Dynamic::Ratio(4.1), Dynamic::Ratio(100.0)].map(rank), [1, 3, 4]);
        // 8/15 and 12/15 of the sum; 64/85 and 80/85 of the squares.
        assert_eq!(
            [Dynamic::Cumulative(0.5), Dynamic::Cumulative(0.79), Dynamic::Cumulative(0.81)].map(rank),
            [1, 2, 3]
        );
        assert_eq!([Dynamic::Frobenius(0.86), Dynamic::Frobenius(0.96), Dynamic::Frobenius(0.99)].map(rank), [1, 2, 3]);
        assert_eq!((Dynamic::Ratio(9.0).rank(&[1e-7, 1e-8]), Dynamic::Ratio(9.0).rank(&[])), (1, 1));
    }

    #[test]
    fn blocks_by_name() {
        for (name, block) in [
            ("lora_unet_down_blocks_1_attentions_0_proj_in", "lora_unet_down_blocks_1"),
            ("lora_unet_mid_block_attentions_0_proj_in", "lora_unet_mid_block_attentions_0"),
            ("transformer.single_transformer_blocks.12.proj_out", "transformer.single_transformer_blocks.12"),
            ("lora_unet_img_in", "lora_unet_img_in"),
            ("", ""),
        ] {
            assert_eq!(block_of(name), block);
        }
    }
}
