//! Block-wise ranks, α and learning rates of U-Net LoRAs.
//!
//! SD 1.x and 2.x have 25 blocks, SDXL 23. Lists have exactly this length; learning-rate weights are given by part.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::Job;
use super::network_args::Arg;
use crate::python;
use crate::report::Kind;
use crate::script::Family;

/// Blocks before, in and after the middle that take learning-rate weights.
#[derive(Clone, Copy)]
struct Layout {
    down: usize,
    mid: usize,
    up: usize,
    /// Blocks before and after, whose weight is 1.
    edge: usize,
}

impl Layout {
    fn of(family: Family) -> Layout {
        match family {
            Family::Sdxl => Layout { down: 9, mid: 3, up: 9, edge: 1 },
            _ => Layout { down: 12, mid: 1, up: 12, edge: 0 },
        }
    }
    fn blocks(self) -> usize {
        self.down + self.mid + self.up + 2 * self.edge
    }
}

impl Job<'_> {
    pub(super) fn block_lists(&mut self, list: &[Arg], done: &mut HashSet<&'static str>) {
        let layout = Layout::of(self.family);
        let of = |name: &str| list.iter().find(|arg| arg.opt.name == name);
        let weights = ["down_lr_weight", "mid_lr_weight", "up_lr_weight"];
        let active = of("block_dims").is_some() || weights.iter().any(|name| of(name).is_some());
        let (ranks, alphas) = (self.numbers(of("block_dims"), layout), self.numbers(of("block_alphas"), layout));
        let (conv, conv_alphas) =
            (self.numbers(of("conv_block_dims"), layout), self.numbers(of("conv_block_alphas"), layout));
        let rank = self.draft.get("nodes.lora.rank").and_then(Json::as_f64).unwrap_or(4.0);
        let alpha = |path: &str, own: f64| self.draft.get(path).and_then(Json::as_f64).unwrap_or(own);
        // Where α is not given by block, it is the adapter's, and 1 for convolutions.
        let (usual, conv_usual) = (alpha("nodes.lora.alpha", rank), alpha("nodes.lora.conv.alpha", 1.0));
        let conv_rank = self.draft.get("nodes.lora.conv.rank").and_then(Json::as_f64);
        let sizes = [
            (["block_dims", "block_alphas"], "nodes.lora.blocks", ranks, alphas, Some(rank), usual),
            (
                ["conv_block_dims", "conv_block_alphas"],
                "nodes.lora.conv.blocks",
                conv,
                conv_alphas,
                conv_rank,
                conv_usual,
            ),
        ];
        for (names, path, ranks, alphas, usual_rank, usual_alpha) in sizes {
            let args: Vec<&Arg> = names.iter().filter_map(|name| of(name)).collect();
            done.extend(names);
            let wrong = [&ranks, &alphas].into_iter().find_map(|list| list.as_ref().err().cloned());
            let (kind, note) = match (wrong, ranks, alphas) {
                _ if args.is_empty() => continue,
                _ if self.ranks_of_file() => {
                    (Kind::Ignored, "sd-scripts drops it with `--dim_from_weights`".to_owned())
                }
                _ if !active => {
                    (Kind::Ignored, "without effect without `block_dims`, and sd-scripts says nothing".into())
                }
                (Some(wrong), ..) => (Kind::Refused, format!("{wrong}; sd-scripts stops here")),
                (None, Ok(None), Ok(_)) if usual_rank.is_none() => (Kind::Ignored, "there are no ranks for it".into()),
                (None, Ok(ranks), Ok(alphas)) => {
                    let ranks = ranks.unwrap_or_else(|| vec![usual_rank.unwrap_or(rank); layout.blocks()]);
                    let list = sizes_of(&ranks, alphas.as_deref(), usual_alpha);
                    if path.contains(".conv.") && self.draft.get("nodes.lora.conv.rank").is_none() {
                        // Every block has its own; the field is needed all the same.
                        let first = ranks.iter().copied().find(|r| *r > 0.0).unwrap_or(1.0);
                        self.put_plain("nodes.lora.conv.rank", python::number(first));
                    }
                    match self.draft.put(path, json!(list)) {
                        Ok(()) => (Kind::Mapped, String::new()),
                        Err(miss) => (Kind::Refused, miss.to_string()),
                    }
                }
                (None, ..) => continue,
            };
            for arg in args {
                self.tell_arg(arg, kind, (kind == Kind::Mapped).then_some(path), &note);
            }
        }
        let given: Vec<&Arg> = weights.iter().filter_map(|name| of(name)).collect();
        let threshold = of("block_lr_zero_threshold");
        done.extend(weights);
        done.insert("block_lr_zero_threshold");
        if given.is_empty() {
            if let Some(arg) = threshold {
                self.tell_arg(arg, Kind::Ignored, None, "without effect without learning-rate weights");
            }
            return;
        }
        let limit = threshold.and_then(|arg| arg.value.as_f64()).unwrap_or(0.0);
        let mut all = vec![1.0; layout.edge];
        let mut wrong = None;
        for (name, n) in weights.into_iter().zip([layout.down, layout.mid, layout.up]) {
            let part = of(name).map_or(Some(vec![1.0; n]), |arg| part(&arg.text, n, name == "mid_lr_weight"));
            match part {
                Some(part) => all.extend(part.into_iter().map(|w| if w <= limit { 0.0 } else { w })),
                None => wrong = Some(name),
            }
        }
        all.extend(vec![1.0; layout.edge]);
        let path = "nodes.lora.block_rates";
        let put = match wrong {
            _ if self.ranks_of_file() => Err("not available yet: block rates beside `rank: from_file`".into()),
            Some(name) => {
                Err(format!("`{name}` is neither a list nor a preset as `sine` or `cosine+0.1`; sd-scripts crashes"))
            }
            None => self.draft.put(path, json!(all)).map_err(|miss| miss.to_string()),
        };
        for arg in given.into_iter().chain(threshold) {
            match &put {
                Ok(()) => self.tell_arg(arg, Kind::Mapped, Some(path), "factors of the learning rate, block by block"),
                Err(note) => self.tell_arg(arg, Kind::Refused, None, note),
            }
        }
    }
}

impl Job<'_> {
    /// Numbers of a list, one for each block.
    fn numbers(&self, arg: Option<&Arg>, layout: Layout) -> Result<Option<Vec<f64>>, String> {
        let Some(arg) = arg else { return Ok(None) };
        let numbers: Option<Vec<f64>> = arg.text.split(',').map(python::float).collect();
        match numbers {
            Some(numbers) if numbers.len() == layout.blocks() => Ok(Some(numbers)),
            Some(numbers) => {
                Err(format!("`{}` has {} numbers for {} blocks", arg.opt.name, numbers.len(), layout.blocks()))
            }
            None => Err(format!("`{}` is no list of numbers", arg.opt.name)),
        }
    }
}

/// Ranks with α for each block, `false` for none.
fn sizes_of(ranks: &[f64], alphas: Option<&[f64]>, usual: f64) -> Vec<Json> {
    let one = |(i, rank): (usize, &f64)| match *rank {
        r if r <= 0.0 => json!(false),
        r => {
            let alpha = alphas.map_or(usual, |list| list[i]);
            // 0 stands for the rank.
            let alpha = if alpha <= 0.0 { r } else { alpha };
            json!({ "rank": python::number(r), "alpha": python::number(alpha) })
        }
    };
    ranks.iter().enumerate().map(one).collect()
}

/// Weights of a part: a list padded with 1 or cut, or a preset. `None` where the reference crashes.
fn part(text: &str, n: usize, list_only: bool) -> Option<Vec<f64>> {
    if text.contains(',') || list_only {
        let read = |item: &str| if item.trim().is_empty() { Some(0.0) } else { python::float(item) };
        let mut weights: Vec<f64> = text.split(',').map(read).collect::<Option<_>>()?;
        weights.resize(n, 1.0);
        return Some(weights);
    }
    let (name, base) = text.split_once('+').unwrap_or((text, "0"));
    let base = python::float(base)?;
    let last = (n - 1).max(1) as f64;
    let shape: fn(f64) -> f64 = match name {
        "sine" => |x| (x * std::f64::consts::FRAC_PI_2).sin(),
        "cosine" => |x| (x * std::f64::consts::FRAC_PI_2).cos(),
        "linear" => |x| x,
        "reverse_linear" => |x| 1.0 - x,
        "zeros" => |_| 0.0,
        _ => return None,
    };
    Some((0..n).map(|i| shape(i as f64 / last) + base).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        assert_eq!(part("1,,0.5", 4, false), Some(vec![1.0, 0.0, 0.5, 1.0]));
        assert_eq!(part("1,2,3", 2, false), Some(vec![1.0, 2.0]));
        assert_eq!(part("linear+1", 3, false), Some(vec![1.0, 1.5, 2.0]));
        assert_eq!(part("reverse_linear", 3, false), Some(vec![1.0, 0.5, 0.0]));
        assert_eq!(part("zeros+0.25", 2, false), Some(vec![0.25, 0.25]));
        let (sine, cosine) = (part("sine", 9, false).unwrap(), part("cosine", 9, false).unwrap());
        assert!(sine[0] == 0.0 && (sine[8] - 1.0).abs() < 1e-12);
        assert!(sine.iter().zip(cosine.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-12));
        for text in ["0.5", "wave", "sine+x"] {
            assert_eq!(part(text, 9, false), None, "{text}");
        }
        assert_eq!(part("0.5", 1, true), Some(vec![0.5]));
    }
}
