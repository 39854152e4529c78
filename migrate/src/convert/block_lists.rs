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
    /// Name of a block, as the document's maps have it; none for those at the edge.
    fn name(self, i: usize) -> Option<String> {
        let i = i.checked_sub(self.edge)?;
        let (middle, up) = (self.down, self.down + self.mid);
        match i {
            _ if i < middle => Some(format!("down.{i}")),
            _ if i < up && self.mid == 1 => Some("mid".into()),
            _ if i < up => Some(format!("mid.{}", i - middle)),
            _ if i < up + self.up => Some(format!("up.{}", i - up)),
            _ => None,
        }
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
        let number = |path: &str| self.draft.get(path).and_then(Json::as_f64);
        // A size without α takes the adapter's, one of 3×3 convolutions theirs. Where α is not given by block, it is
        // this one, and for convolutions `conv_alpha` or 1.
        let kept = self.has("network_weights");
        let own = number("nodes.lora.alpha").filter(|_| !kept);
        let conv_rank = number("nodes.lora.conv.rank");
        let conv_own = number("nodes.lora.conv.alpha");
        let conv_alpha = of("conv_alpha").filter(|_| !self.is_module("lycoris"));
        let conv_usual = conv_own.or(conv_alpha.and_then(|arg| arg.value.as_f64())).unwrap_or(1.0);
        let conv_usual = if kept { None } else { Some(conv_usual) };
        // The α of convolutions whose ranks are given by block alone.
        let conv_alpha = conv_alpha.filter(|_| of("conv_dim").is_none() && of("conv_block_dims").is_some());
        let sizes = [
            (["block_dims", "block_alphas"], "nodes.lora.blocks", ranks, alphas, Some(rank), own, own),
            (
                ["conv_block_dims", "conv_block_alphas"],
                "nodes.lora.conv.blocks",
                conv,
                conv_alphas,
                conv_rank,
                conv_usual,
                conv_own,
            ),
        ];
        for (names, path, ranks, alphas, usual_rank, usual_alpha, own) in sizes {
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
                    let list = sizes_of(&ranks, alphas.as_deref().filter(|_| !kept), usual_alpha, own);
                    let named = list.iter().any(Json::is_object);
                    if path.contains(".conv.") && self.draft.get("nodes.lora.conv.rank").is_none() {
                        // Every block has its own; the field is needed all the same.
                        let first = ranks.iter().copied().find(|r| *r > 0.0).unwrap_or(1.0);
                        self.put_plain("nodes.lora.conv.rank", python::number(first));
                    }
                    match self.draft.put(path, json!(list)) {
                        Ok(()) => {
                            for (i, name) in (0..layout.blocks()).filter(|_| named).map(|i| (i, layout.name(i))) {
                                let name = name.unwrap_or_else(|| "no layers".into());
                                self.draft.comment(&format!("{path}.{i}"), name);
                            }
                            (Kind::Mapped, String::new())
                        }
                        Err(miss) => (Kind::Refused, miss.to_string()),
                    }
                }
                (None, ..) => continue,
            };
            let target = (kind == Kind::Mapped).then_some(path);
            for arg in args {
                self.tell_arg(arg, kind, target, &note);
            }
            if let Some(arg) = conv_alpha.filter(|_| path.contains(".conv.") && !self.ranks_of_file()) {
                match of("conv_block_alphas") {
                    Some(_) => self.tell_arg(arg, Kind::Ignored, None, "`conv_block_alphas` counts"),
                    None if kept => {
                        self.tell_arg(arg, Kind::Changed, Some("nodes.lora.weights"), "the file's α is kept")
                    }
                    None => self.tell_arg(arg, kind, target, &note),
                }
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
        let mut rates = serde_json::Map::new();
        let mut wrong = None;
        let parts = [("down", layout.down), ("mid", layout.mid), ("up", layout.up)];
        for (name, (section, n)) in weights.into_iter().zip(parts) {
            let Some(arg) = of(name) else { continue };
            match rates_of(&arg.text, n, name == "mid_lr_weight", limit) {
                Some(value) => {
                    rates.insert(section.into(), value);
                }
                None => wrong = Some(name),
            }
        }
        let path = "nodes.lora.block_rates";
        let put = match wrong {
            Some(name) => {
                Err(format!("`{name}` is neither a list nor a preset as `sine` or `cosine+0.1`; sd-scripts crashes"))
            }
            None => self.draft.put(path, Json::Object(rates)).map_err(|miss| miss.to_string()),
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

/// Ranks for each block, `false` for none; with α where it is not the `own` one that a bare rank has: the adapter's or that of
/// convolutions, else the rank.
fn sizes_of(ranks: &[f64], alphas: Option<&[f64]>, usual: Option<f64>, own: Option<f64>) -> Vec<Json> {
    let one = |(i, rank): (usize, &f64)| match *rank {
        r if r <= 0.0 => json!(false),
        r => {
            // 0 stands for the rank, which is what a size without any α has.
            let alpha = alphas.map_or(usual, |list| Some(list[i])).map(|a| if a <= 0.0 { r } else { a });
            match alpha {
                Some(alpha) if alpha != own.unwrap_or(r) => {
                    json!({ "rank": python::number(r), "alpha": python::number(alpha) })
                }
                None if own.is_some() => json!({ "rank": python::number(r), "alpha": python::number(r) }),
                _ => python::number(r),
            }
        }
    };
    ranks.iter().enumerate().map(one).collect()
}

/// Weights of a part as the document has them: a curve for a preset, one number where all are equal, else a list.
fn rates_of(text: &str, n: usize, list_only: bool, limit: f64) -> Option<Json> {
    let weights = part(text, n, list_only)?;
    let (name, base) = text.split_once('+').unwrap_or((text, ""));
    let curves = ["sine", "cosine", "linear", "reverse_linear"];
    if curves.contains(&name) && weights.iter().all(|w| *w > limit || *w == 0.0) {
        let base = python::float(base).filter(|base| *base != 0.0);
        return Some(match base {
            Some(base) => json!({ "curve": name, "base": python::number(base) }),
            None => json!({ "curve": name }),
        });
    }
    let round = |w: f64| python::number(format!("{w:.9}").parse().unwrap_or(w));
    let weights: Vec<Json> = weights.into_iter().map(|w| if w <= limit { json!(0) } else { round(w) }).collect();
    Some(if weights.windows(2).all(|pair| pair[0] == pair[1]) { weights[0].clone() } else { json!(weights) })
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
    fn rates() {
        let cases = [
            (("sine+.25", 12, false, 0.0), Some(json!({ "curve": "sine", "base": 0.25 }))),
            (("linear", 9, false, 0.0), Some(json!({ "curve": "linear" }))),
            // Small ones are cut off, which a curve cannot say.
            (("linear", 3, false, 0.6), Some(json!([0, 0, 1]))),
            (("zeros+0.5", 3, false, 0.0), Some(json!(0.5))),
            (("0.5", 1, true, 0.0), Some(json!(0.5))),
            (("0.5,1", 3, false, 0.0), Some(json!([0.5, 1, 1]))),
            (("0.5", 3, false, 0.0), None),
        ];
        for ((text, n, list_only, limit), value) in cases {
            assert_eq!(rates_of(text, n, list_only, limit), value, "{text}");
        }
    }

    #[test]
    fn sizes() {
        let of = |alphas: Option<&[f64]>, usual, own| json!(sizes_of(&[0.0, 2.0, 4.0], alphas, usual, own));
        assert_eq!(of(None, Some(8.0), Some(8.0)), json!([false, 2, 4]));
        assert_eq!(of(None, None, None), json!([false, 2, 4]));
        assert_eq!(
            of(None, Some(1.0), Some(8.0)),
            json!([false, { "rank": 2, "alpha": 1 }, { "rank": 4, "alpha": 1 }])
        );
        let alphas: &[f64] = &[1.0, 0.0, 8.0];
        assert_eq!(of(Some(alphas), Some(8.0), Some(8.0)), json!([false, { "rank": 2, "alpha": 2 }, 4]));
        assert_eq!(of(Some(alphas), None, None), json!([false, 2, { "rank": 4, "alpha": 8 }]));
        // Convolutions without an α of their own take their rank, whatever the adapter's is.
        assert_eq!(of(None, Some(1.0), None), json!([false, { "rank": 2, "alpha": 1 }, { "rank": 4, "alpha": 1 }]));
    }

    #[test]
    fn names_of_blocks() {
        let (sd, xl) = (Layout::of(Family::Sd1), Layout::of(Family::Sdxl));
        assert_eq!(
            (sd.name(0).as_deref(), sd.name(12).as_deref(), sd.name(24).as_deref()),
            (Some("down.0"), Some("mid"), Some("up.11"))
        );
        assert_eq!((xl.name(0), xl.name(1).as_deref(), xl.name(11).as_deref()), (None, Some("down.0"), Some("mid.1")));
        assert_eq!((xl.name(21).as_deref(), xl.name(22)), (Some("up.8"), None));
    }

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
