//! SD3's positions: a part of the file's table, or computed ones, scaled to the sizes that are trained.

use pipe_ops::{Var, op};
use serde::{Deserialize, Serialize};

use super::MmditConfig;
use crate::net::Net;

/// What a document changes of positions and of the text in training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Sides p, in patches, of the squares that positions are computed for, ascending. Empty: the file's table.
    #[serde(default)]
    pub scaled: Vec<usize>,
    /// Probability that a training pass takes a random part of the table in place of its centre.
    #[serde(default)]
    pub random_crop: f32,
    /// Probability of a sample without CLIP-L, without CLIP-G, without T5.
    #[serde(default)]
    pub text_dropout: [f32; 3],
}

/// Side of the grid of computed positions around a square of `p` patches.
fn grid(p: usize) -> usize {
    p * 3 / 2
}

/// Which of the trained sizes stands for `h × w` patches: limits are midway between areas, and the last is that of its
/// grid. A side longer than the grid gets positions of its own.
fn nearest(sizes: &[usize], h: usize, w: usize) -> usize {
    let area = h * w;
    let within = sizes.windows(2).find(|pair| area <= (pair[0] * pair[0] + pair[1] * pair[1]) / 2).map(|pair| pair[0]);
    let p = within.or(sizes.last().copied()).unwrap_or(1);
    if h.max(w) > grid(p) { h.max(w) } else { p }
}

/// Embeddings `[n, width / 2]` of the coordinates `(16/p)·(i − (g − p)/2)` for i from `first`: sines, then cosines.
fn half(width: usize, p: usize, first: usize, n: usize) -> Vec<f32> {
    let quarter = width / 4;
    let shift = (grid(p) - p) as f64 / 2.0;
    let row = |i: usize| {
        let coordinate = 16.0 / p as f64 * ((first + i) as f64 - shift);
        let angle = move |k: usize| coordinate * 10_000f64.powf(-(k as f64) / quarter as f64);
        (0..quarter).map(move |k| angle(k).sin() as f32).chain((0..quarter).map(move |k| angle(k).cos() as f32))
    };
    (0..n).flat_map(row).collect()
}

/// Where `n` of `room` begin: in the middle, or at a part of what is free.
fn start(room: usize, n: usize, at: Option<f32>) -> usize {
    match at {
        None => (room - n) / 2,
        Some(part) => ((part * (room - n + 1) as f32) as usize).min(room - n),
    }
}

impl MmditConfig {
    /// Positions of `h × w` patches: `[h·w, D]`. The pass may say where in the table they lie.
    pub(super) fn positions_of(&self, net: &Net, h: usize, w: usize) -> Var {
        let (d, sizes) = (self.width, &self.options.scaled);
        let [top, left] = net.inputs.crop.map_or([None; 2], |at| at.map(Some));
        if sizes.is_empty() {
            let m = self.positions;
            // A table that learns may be kept in another type.
            let table = op::cast(net.cx, &net.weight("pos_embed"), net.cx.compute);
            let table = op::reshape(net.cx, &table, &[m, m, d]);
            let rows = op::narrow(net.cx, &table, 0, start(m, h, top), h);
            let crop = op::narrow(net.cx, &rows, 1, start(m, w, left), w);
            return op::reshape(net.cx, &crop, &[h * w, d]);
        }
        let p = nearest(sizes, h, w);
        let y = half(d, p, start(grid(p), h, top), h);
        let x = half(d, p, start(grid(p), w, left), w);
        let rows = y.chunks(d / 2).flat_map(|y| x.chunks(d / 2).flat_map(move |x| x.iter().chain(y).copied()));
        Var::constant(net.cx.device.tensor(rows.collect(), &[h * w, d], net.cx.compute))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_chosen_by_area() {
        let sizes = [16, 32, 64];
        for ((h, w), p) in
            [((16, 16), 16), ((24, 24), 16), ((25, 26), 32), ((32, 32), 32), ((48, 48), 32), ((51, 51), 64)]
        {
            assert_eq!(nearest(&sizes, h, w), p, "{h} x {w}");
        }
        // Longer than 1.5·p.
        assert_eq!((nearest(&sizes, 24, 16), nearest(&sizes, 25, 16), nearest(&sizes, 97, 10)), (16, 25, 97));
    }

    /// Against diffusers' sines and cosines of sd-scripts' coordinates.
    #[test]
    fn computed_positions_are_those_of_the_reference() {
        use crate::{Inputs, Weights};
        use pipe_ops::Cx;
        let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let path = std::path::Path::new(&root).join("../../tests/fixtures/sd3/scaled_positions.safetensors");
        let file = pipe_data::weights::WeightFile::open(path).unwrap();
        let (cx, weights) = (Cx::cpu(), Weights::default());
        let (mut tested, mut moved) = (0, 0);
        for name in file.names() {
            let sizes: Vec<usize> = name.split('.').map(|size| size.parse().unwrap()).collect();
            let [width, p, h, w] = sizes[..] else { panic!("{name}") };
            let options = Options { scaled: vec![p], ..Options::default() };
            let config = MmditConfig { width, options, ..MmditConfig::sd3_medium() };
            let of = |crop: Option<[f32; 2]>| {
                let inputs = Inputs { crop, ..Default::default() };
                let net = Net {
                    cx: &cx,
                    part: "transformer",
                    weights: &weights,
                    train: None,
                    inputs: &inputs,
                    fetched: None,
                };
                config.positions_of(&net, h, w).value
            };
            let expected = file.f32(name).unwrap();
            assert_eq!(of(None).shape(), [h * w, width]);
            for (ours, theirs) in of(None).to_vec().iter().zip(&expected) {
                assert!((ours - theirs).abs() < 1e-6, "{name}: {ours}, not {theirs}");
            }
            tested += 1;
            moved += (of(Some([0.0, 0.0])).to_vec() != of(None).to_vec()) as usize;
        }
        assert!(tested == 3 && moved == 2, "{moved} of {tested}: one fills its grid in one direction and more");
    }

    #[test]
    fn a_crop_lies_in_the_middle_or_anywhere() {
        assert_eq!((start(7, 4, None), start(7, 7, Some(0.9))), (1, 0));
        let all: Vec<usize> = (0..8).map(|i| start(7, 4, Some(i as f32 / 8.0))).collect();
        assert_eq!(all, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(start(7, 4, Some(1.0)), 3);
    }
}
