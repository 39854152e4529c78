//! What a layer of an adapter file does to a weight, by the endings of its tensors.

use pipe_core::run::RunError;
use pipe_networks::adapters::merge::Change;
use pipe_networks::adapters::tucker;

/// What kind of adapter a layer of a file has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    /// A pair of factors; LoCon with a core; DoRA with magnitudes.
    Lora { core: bool, magnitude: bool },
    /// LoHa, perhaps with cores.
    Loha { cores: bool },
    /// LoKr.
    Lokr(Kron),
    /// OFT with so many parts; 0 is a whole layer, whose rows may have lengths.
    Oft { parts: usize, rescaled: bool },
    /// (IA)³.
    Ia3,
    /// GLoRA.
    Glora,
    /// Differences of weight and bias, or of a norm's.
    Whole { weight: bool, bias: bool, norm: bool },
}

/// Which factors of LoKr are products, and whether the large one has a core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Kron {
    small: bool,
    large: bool,
    core: bool,
}

/// Reads a tensor of a layer by its ending.
pub(super) type Get<'a> = &'a dyn Fn(&str) -> Result<(Vec<usize>, Vec<f32>), RunError>;

const DOWN: &str = "lora_down.weight";
const UP: &str = "lora_up.weight";
const LOHA: [&str; 4] = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];
const GLORA: [&str; 4] = ["a1.weight", "a2.weight", "b1.weight", "b2.weight"];

impl Form {
    /// The form of a layer with tensors of these endings.
    pub(super) fn of(endings: &[&str]) -> Option<Form> {
        let own: Vec<&str> = endings.iter().copied().filter(|e| *e != "alpha").collect();
        let has = |ending: &str| own.contains(&ending);
        // All of these, and of the others no more than those.
        let is = |all: &[&str], more: &[&str]| {
            all.iter().all(|e| has(e)) && own.iter().all(|e| all.contains(e) || more.contains(e))
        };
        if is(&[DOWN, UP], &["lora_mid.weight", "dora_scale"]) {
            return Some(Form::Lora { core: has("lora_mid.weight"), magnitude: has("dora_scale") });
        }
        let cores = has("hada_t1");
        if is(&LOHA, &["hada_t1", "hada_t2"]) && cores == has("hada_t2") {
            return Some(Form::Loha { cores });
        }
        if is(&GLORA, &[]) {
            return Some(Form::Glora);
        }
        if is(&["weight", "on_input"], &[]) {
            return Some(Form::Ia3);
        }
        for (names, norm) in [(["diff", "diff_b"], false), (["w_norm", "b_norm"], true)] {
            if !own.is_empty() && is(&[], &names) {
                return Some(Form::Whole { weight: has(names[0]), bias: has(names[1]), norm });
            }
        }
        if is(&["oft_blocks"], &["rescale"]) {
            return Some(Form::Oft { parts: 0, rescaled: has("rescale") });
        }
        let parts = own.iter().filter(|e| e.starts_with("oft_blocks.")).count();
        if parts > 0 && parts == own.len() && (0..parts).all(|i| has(&format!("oft_blocks.{i}"))) {
            return Some(Form::Oft { parts, rescaled: false });
        }
        let product = |name: &str| {
            let both = ["a", "b"].iter().all(|x| has(&format!("{name}_{x}")));
            (both != has(name)).then_some(both)
        };
        let (small, large) = (product("lokr_w1")?, product("lokr_w2")?);
        let kron = Kron { small, large, core: has("lokr_t2") };
        let known = ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"];
        (is(&[], &known) && (large || !kron.core)).then_some(Form::Lokr(kron))
    }

    /// The change of a layer whose weight has this shape, and its strength at multiplier 1. `get` reads a tensor by its
    /// ending; of tensors of zeros only sizes count.
    pub(super) fn change(self, weight: &[usize], get: Get, alpha: Option<f32>) -> Result<(Change, f32), RunError> {
        let first = |shape: &[usize]| shape.first().copied().unwrap_or(0);
        let scale = |rank: usize| alpha.map_or(1.0, |a| a / rank.max(1) as f32);
        let (inputs, kernel) = (weight.get(1).copied().unwrap_or(1), weight.iter().skip(2).product::<usize>());
        // `core [r, q, ..]` and `b [q, in]` as a down factor of rank r.
        let cored = |core: &str, b: &str, inputs: usize| {
            let ((shape, core), (_, b)) = (get(core)?, get(b)?);
            let (r, q) = (first(&shape), shape.get(1).copied().unwrap_or(0));
            if core.len() != r * q * kernel || b.len() != q * inputs {
                return Err(RunError::new("P0305", "the core does not fit its factors"));
            }
            Ok((r, tucker::down(&core, &b, [r, q], inputs, kernel)))
        };
        // `a [r, out]` as an up factor.
        let turned = |a: &str, r: usize| {
            let (shape, values) = get(a)?;
            let out = shape.get(1).copied().unwrap_or(0);
            match first(&shape) == r && values.len() == r * out {
                true => Ok((out, tucker::up(&values, r, out))),
                false => Err(RunError::new("P0305", "the core does not fit its factors")),
            }
        };
        let values = |name: &str| get(name).map(|(_, values)| values);
        let lengths = |rescaled: bool| if rescaled { values("rescale") } else { Ok(Vec::new()) };
        // LyCORIS: 0 is no constraint, and none is none.
        let constraint = alpha.filter(|c| *c != 0.0).unwrap_or(f32::INFINITY);
        Ok(match self {
            Form::Lora { core, magnitude } => {
                let (rank, down) = match core {
                    true => cored("lora_mid.weight", DOWN, inputs)?,
                    false => get(DOWN).map(|(shape, down)| (first(&shape), down))?,
                };
                let up = values(UP)?;
                match magnitude {
                    true => {
                        let (shape, magnitude) = get("dora_scale")?;
                        // LyCORIS' may be of the inputs, `[1, in]`.
                        let on_input = shape.len() > 1 && shape.first() != weight.first();
                        (Change::Decomposed { rank, down, up, magnitude, on_input, scale: scale(rank) }, 1.0)
                    }
                    false => (Change::LowRank { rank, down, up }, scale(rank)),
                }
            }
            Form::Loha { cores: true } => {
                let product = |a: &str, core: &str, b: &str| {
                    let (rank, down) = cored(core, b, inputs)?;
                    Ok::<_, RunError>((rank, turned(a, rank)?.1, down))
                };
                let (rank, w1a, w1b) = product(LOHA[0], "hada_t1", LOHA[1])?;
                let (other, w2a, w2b) = product(LOHA[2], "hada_t2", LOHA[3])?;
                if rank != other {
                    return Err(RunError::new("P0305", "the two products have different ranks"));
                }
                (Change::Hadamard { rank, factors: [w1a, w1b, w2a, w2b] }, scale(rank))
            }
            Form::Loha { cores: false } => {
                let [a, b, c, d] = LOHA;
                let (shape, w1b) = get(b)?;
                let rank = first(&shape);
                (Change::Hadamard { rank, factors: [values(a)?, w1b, values(c)?, values(d)?] }, scale(rank))
            }
            Form::Lokr(kron) => {
                let mut rank = None;
                let factor = |name: &str, is_product: bool, rank: &mut Option<usize>| {
                    if !is_product {
                        return get(name).map(|(shape, whole)| (first(&shape), whole));
                    }
                    let ((shape, a), (inner, b)) = (get(&format!("{name}_a"))?, get(&format!("{name}_b"))?);
                    *rank = Some(first(&inner));
                    Ok((first(&shape), product(&a, &b, first(&shape), first(&inner))))
                };
                let small = factor("lokr_w1", kron.small, &mut rank)?;
                let large = if kron.core {
                    let n = get("lokr_w2_b")?.0.get(1).copied().unwrap_or(0);
                    let (r, down) = cored("lokr_t2", "lokr_w2_b", n)?;
                    let (k, up) = turned("lokr_w2_a", r)?;
                    rank = Some(r);
                    (k, product(&up, &down, k, r))
                } else {
                    factor("lokr_w2", kron.large, &mut rank)?
                };
                // Two whole factors have the scale 1.
                (Change::Kronecker { small, large }, rank.map_or(1.0, scale))
            }
            Form::Oft { parts: 0, rescaled } => {
                let (shape, generators) = get("oft_blocks")?;
                let lengths = lengths(rescaled)?;
                let change = match shape[..] {
                    [m, k, n, _] => Change::Butterfly { sizes: [m, k, n], generators, constraint, lengths },
                    _ => {
                        let n = shape.get(1).copied().unwrap_or(0);
                        Change::Rotation { parts: vec![(first(&shape), n, generators)], constraint, lengths }
                    }
                };
                (change, 1.0)
            }
            Form::Oft { parts, .. } => {
                let part = |i: usize| {
                    let (shape, values) = get(&format!("oft_blocks.{i}"))?;
                    Ok::<_, RunError>((first(&shape), shape.get(1).copied().unwrap_or(0), values))
                };
                let parts = (0..parts).map(part).collect::<Result<_, _>>()?;
                (Change::Rotation { parts, constraint, lengths: Vec::new() }, 1.0)
            }
            Form::Ia3 => {
                let on_input = values("on_input")?.first().is_some_and(|x| *x != 0.0);
                (Change::Scale { factor: values("weight")?, on_input }, 1.0)
            }
            Form::Glora => {
                let (shape, b2) = get(GLORA[3])?;
                let rank = first(&shape);
                let change =
                    Change::General { rank, a: [values(GLORA[0])?, values(GLORA[1])?], b: [values(GLORA[2])?, b2] };
                (change, scale(rank))
            }
            Form::Whole { weight, bias, norm } => {
                let names = if norm { ["w_norm", "b_norm"] } else { ["diff", "diff_b"] };
                let read = |there: bool, name: &str| if there { values(name) } else { Ok(Vec::new()) };
                (Change::Whole { weight: read(weight, names[0])?, bias: read(bias, names[1])? }, 1.0)
            }
        })
    }
}

/// `a·b`, with `rows` rows and `rank` columns of `a`.
fn product(a: &[f32], b: &[f32], rows: usize, rank: usize) -> Vec<f32> {
    if rank == 0 || a.len() != rows * rank || !b.len().is_multiple_of(rank) {
        return Vec::new();
    }
    let width = b.len() / rank;
    let mut out = vec![0.0; rows * width];
    for (row, out) in a.chunks(rank).zip(out.chunks_mut(width.max(1))) {
        for (x, b) in row.iter().zip(b.chunks(width.max(1))) {
            out.iter_mut().zip(b).for_each(|(o, b)| *o += x * b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes_and_constraints_of_files() {
        let form = Form::of(&[DOWN, UP, "dora_scale"]).unwrap();
        for (shape, inputs) in [(vec![2], false), (vec![2, 1], false), (vec![1, 2], true)] {
            let get = |ending: &str| {
                let shape = match ending {
                    DOWN => vec![1, 2],
                    UP => vec![2, 1],
                    _ => shape.clone(),
                };
                Ok((shape, vec![1.0; 2]))
            };
            let (change, _) = form.change(&[2, 2], &get, None).unwrap();
            assert!(matches!(change, Change::Decomposed { on_input, .. } if on_input == inputs), "{shape:?}");
        }
        let get = |_: &str| Ok((vec![1, 2, 2], vec![0.0; 4]));
        for (alpha, limit) in [(None, f32::INFINITY), (Some(0.0), f32::INFINITY), (Some(0.5), 0.5)] {
            let (change, _) = Form::Oft { parts: 0, rescaled: false }.change(&[2, 2], &get, alpha).unwrap();
            assert!(matches!(change, Change::Rotation { constraint, .. } if constraint == limit), "{alpha:?}");
        }
    }

    #[test]
    fn forms_by_their_endings() {
        let kron = |small, large, core| Some(Form::Lokr(Kron { small, large, core }));
        for (endings, form) in [
            (vec![DOWN, UP, "alpha"], Some(Form::Lora { core: false, magnitude: false })),
            (vec![UP, "lora_mid.weight", DOWN], Some(Form::Lora { core: true, magnitude: false })),
            (vec![DOWN, UP, "dora_scale"], Some(Form::Lora { core: false, magnitude: true })),
            (LOHA.to_vec(), Some(Form::Loha { cores: false })),
            ([&LOHA[..], &["hada_t1"]].concat(), None),
            (vec!["lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2"], kron(false, true, true)),
            (vec!["lokr_w1", "lokr_w2", "lokr_t2"], None),
            (vec!["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2"], None),
            (vec!["weight", "on_input"], Some(Form::Ia3)),
            (GLORA.to_vec(), Some(Form::Glora)),
            (vec!["oft_blocks", "rescale", "alpha"], Some(Form::Oft { parts: 0, rescaled: true })),
            (vec!["oft_blocks.1", "oft_blocks.0"], Some(Form::Oft { parts: 2, rescaled: false })),
            (vec!["oft_blocks.1"], None),
            (vec!["diff_b"], Some(Form::Whole { weight: false, bias: true, norm: false })),
            (vec!["w_norm", "b_norm"], Some(Form::Whole { weight: true, bias: true, norm: true })),
            (vec!["w_norm", "diff_b"], None),
            (vec!["alpha"], None),
            (vec![DOWN], None),
        ] {
            assert_eq!(Form::of(&endings), form, "{endings:?}");
        }
    }
}
