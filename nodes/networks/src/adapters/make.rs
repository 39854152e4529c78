//! The tensors of adapters at their first values.

use std::collections::HashMap;
use std::sync::Arc;

use pipe_ops::rng::{self, Purpose};
use pipe_ops::{DType, Device, Meter, Tensor};

use super::{Init, Piece, Target};
use crate::trainables::{Dropouts, Trainables};

/// A weight of the base by part and name, f32 on the host.
pub type Base<'a> = &'a dyn Fn(&str, &str) -> Option<Vec<f32>>;

/// Builds the trainables: every piece at its first values, or at those of `initial` where it has them.
pub fn create(
    targets: &[Target],
    dropouts: Dropouts,
    seed: u64,
    device: &Device,
    initial: &HashMap<String, Vec<f32>>,
    base: Base,
) -> Trainables {
    assemble(targets, dropouts, seed, |target, piece| {
        let n = piece.shape.iter().product();
        let values = initial.get(&piece.key).cloned().unwrap_or_else(|| {
            let mut rng = rng::named_stream(seed, Purpose::Init, 0, &piece.key);
            match piece.init {
                Init::Uniform(bound) => rng::uniform(&mut rng, n, -bound, bound),
                Init::Normal(std) => rng::normal(&mut rng, n).into_iter().map(|x| x * std).collect(),
                Init::Zero => vec![0.0; n],
                Init::One => vec![1.0; n],
                Init::RowNorms => {
                    let weight = base(&target.part, &format!("{}.weight", target.path)).unwrap_or_default();
                    row_norms(&weight, n)
                }
            }
        });
        device.tensor(values, &piece.shape, DType::F32)
    })
}

/// The same with shapes alone, for planning.
pub fn meta(targets: &[Target], dropouts: Dropouts, meter: &Arc<Meter>) -> Trainables {
    assemble(targets, dropouts, 0, |_, piece| Tensor::meta(&piece.shape, DType::F32, meter))
}

fn assemble(targets: &[Target], dropouts: Dropouts, seed: u64, make: impl Fn(&Target, &Piece) -> Tensor) -> Trainables {
    let mut train = Trainables { seed, ..Default::default() };
    for target in targets {
        for piece in target.pieces() {
            let tensor = make(target, &piece);
            let place = if piece.trains { &mut train.tensors } else { &mut train.frozen };
            place.insert(piece.key, tensor);
        }
        train.adapters.insert(Trainables::key(&target.part, &target.path), target.adapter(dropouts));
    }
    train
}

/// L2 norms of the `rows` rows of a weight.
fn row_norms(weight: &[f32], rows: usize) -> Vec<f32> {
    let width = (weight.len() / rows.max(1)).max(1);
    let norm = |row: &[f32]| row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt() as f32;
    let mut norms: Vec<f32> = weight.chunks(width).take(rows).map(norm).collect();
    norms.resize(rows, 1.0);
    norms
}
