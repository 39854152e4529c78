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
        let lists = [
            ("block_dims", "nodes.lora.blocks.rank"),
            ("block_alphas", "nodes.lora.blocks.alpha"),
            ("conv_block_dims", "nodes.lora.blocks.conv_rank"),
            ("conv_block_alphas", "nodes.lora.blocks.conv_alpha"),
        ];
        let weights = ["down_lr_weight", "mid_lr_weight", "up_lr_weight"];
        let active = of("block_dims").is_some() || weights.iter().any(|name| of(name).is_some());
        for (name, path) in lists {
            let Some(arg) = of(name) else { continue };
            done.insert(name);
            let numbers: Option<Vec<f64>> = arg.text.split(',').map(python::float).collect();
            match numbers {
                _ if !active => {
                    let note = "without effect without `block_dims`, and sd-scripts says nothing";
                    self.tell_arg(arg, Kind::Ignored, None, note);
                }
                Some(numbers) if numbers.len() == layout.blocks() => {
                    let numbers: Vec<Json> = numbers.into_iter().map(python::number).collect();
                    self.put_arg(arg, path, json!(numbers));
                }
                Some(numbers) => {
                    let note =
                        format!("{} numbers for {} blocks; sd-scripts stops here", numbers.len(), layout.blocks());
                    self.tell_arg(arg, Kind::Refused, None, &note);
                }
                None => self.tell_arg(arg, Kind::Refused, None, "it is a list of numbers; sd-scripts stops here"),
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
        let path = "nodes.lora.blocks.learning_rate";
        let put = match wrong {
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
