//! Two-dimensional convolution by im2col and matrix products, with both gradients.

use rayon::prelude::*;

use super::gemm::{Mat, gemm_into};

/// Sizes of a convolution: input `[B, C, H, W]`, weight `[O, C, KH, KW]`, output `[B, O, OH, OW]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Batch.
    pub b: usize,
    /// Input channels.
    pub c: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Output channels.
    pub o: usize,
    /// Kernel height.
    pub kh: usize,
    /// Kernel width.
    pub kw: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Zeros added at top, left, bottom, right.
    pub pad: [usize; 4],
}

impl Sizes {
    /// Output height.
    pub fn oh(&self) -> usize {
        (self.h + self.pad[0] + self.pad[2] - self.kh) / self.stride + 1
    }
    /// Output width.
    pub fn ow(&self) -> usize {
        (self.w + self.pad[1] + self.pad[3] - self.kw) / self.stride + 1
    }
    fn pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == 1 && self.pad == [0; 4]
    }
    fn rows(&self) -> usize {
        self.c * self.kh * self.kw
    }
    fn out_span(&self) -> usize {
        self.oh() * self.ow()
    }
    /// Columns of the output that kernel column `kx` reaches inside the input, and the input column of the first.
    fn reach(&self, kx: usize) -> (usize, usize, usize) {
        let first = self.pad[1].saturating_sub(kx).div_ceil(self.stride);
        let limit = (self.w + self.pad[1]).saturating_sub(kx);
        let last = limit.div_ceil(self.stride).min(self.ow());
        (first.min(last), last, (first * self.stride + kx).saturating_sub(self.pad[1]))
    }
    fn row_of(&self, oy: usize, ky: usize) -> Option<usize> {
        (oy * self.stride + ky).checked_sub(self.pad[0]).filter(|&y| y < self.h)
    }
}

/// Columns of the unfolded input handled at once by one worker, so that they stay in its cache.
const TILE: usize = 128 * 1024;

/// Output rows of a tile.
fn tile_rows(s: &Sizes, whole: bool) -> usize {
    if whole { s.oh() } else { (TILE / (s.rows() * s.ow()).max(1)).max(128usize.div_ceil(s.ow())).clamp(1, s.oh()) }
}

/// Unfolds output rows `first..first+rows` of a sample into columns `at..` of `col [C·KH·KW, width]`.
fn im2col(s: &Sizes, x: &[f32], (first, rows): (usize, usize), col: &mut [f32], (at, width): (usize, usize)) {
    let ow = s.ow();
    for (r, row) in col.chunks_mut(width).enumerate() {
        let row = &mut row[at..at + rows * ow];
        let (c, ky, kx) = (r / (s.kh * s.kw), r / s.kw % s.kh, r % s.kw);
        let plane = &x[c * s.h * s.w..(c + 1) * s.h * s.w];
        let (left, right, from) = s.reach(kx);
        for (i, out) in row.chunks_mut(ow).enumerate() {
            let Some(y) = s.row_of(first + i, ky) else {
                out.fill(0.0);
                continue;
            };
            out[..left].fill(0.0);
            out[right..].fill(0.0);
            if left == right {
                continue;
            }
            let source = &plane[y * s.w + from..(y + 1) * s.w];
            if s.stride == 1 {
                out[left..right].copy_from_slice(&source[..right - left]);
            } else {
                for (o, x) in out[left..right].iter_mut().zip(source.iter().step_by(s.stride)) {
                    *o = *x;
                }
            }
        }
    }
}

/// Adds the columns of output rows `first..first+rows` back to a sample: the transpose of [`im2col`].
fn col2im(s: &Sizes, col: &[f32], (first, rows): (usize, usize), x: &mut [f32], (at, width): (usize, usize)) {
    let ow = s.ow();
    for (r, row) in col.chunks(width).enumerate() {
        let row = &row[at..at + rows * ow];
        let (c, ky, kx) = (r / (s.kh * s.kw), r / s.kw % s.kh, r % s.kw);
        let plane = &mut x[c * s.h * s.w..(c + 1) * s.h * s.w];
        let (left, right, from) = s.reach(kx);
        if left == right {
            continue;
        }
        for (i, g) in row.chunks(ow).enumerate() {
            let Some(y) = s.row_of(first + i, ky) else { continue };
            let target = &mut plane[y * s.w + from..(y + 1) * s.w];
            if s.stride == 1 {
                super::act::add_assign(&mut target[..right - left], &g[left..right]);
            } else {
                for (t, g) in target.iter_mut().step_by(s.stride).zip(&g[left..right]) {
                    *t += *g;
                }
            }
        }
    }
}

/// One sample a worker when the batch fills the cores, else one sample at a time on all of them.
fn by_sample(s: &Sizes) -> bool {
    s.b >= rayon::current_num_threads()
}

/// Columns below which samples are joined: a product this narrow spends its time on packing the weight.
const NARROW: usize = 256;

/// Samples that are handled as one matrix: several where an image is small, else one.
fn joined(s: &Sizes) -> usize {
    let workers = rayon::current_num_threads();
    if s.out_span() >= NARROW { 1 } else { NARROW.div_ceil(s.out_span()).min(s.b.div_ceil(workers)).max(1) }
}

/// Unfolded input of several samples, side by side: `[C·KH·KW, samples·N]`.
fn unfold_group(s: &Sizes, x: &[f32], col: &mut Vec<f32>) {
    let (n, xs) = (s.out_span(), s.c * s.h * s.w);
    let width = x.len() / xs * n;
    col.resize(s.rows() * width, 0.0);
    for (j, x) in x.chunks(xs).enumerate() {
        im2col(s, x, (0, s.oh()), col, (j * n, width));
    }
}

/// `[samples][O, N]` to `[O, samples·N]`.
fn gather(s: &Sizes, y: &[f32], out: &mut Vec<f32>) {
    let n = s.out_span();
    let width = y.len() / s.o;
    out.resize(y.len(), 0.0);
    for (j, y) in y.chunks(s.o * n).enumerate() {
        for (o, y) in y.chunks(n).enumerate() {
            out[o * width + j * n..][..n].copy_from_slice(y);
        }
    }
}

/// The reverse of [`gather`].
fn scatter(s: &Sizes, from: &[f32], y: &mut [f32]) {
    let n = s.out_span();
    let width = y.len() / s.o;
    for (j, y) in y.chunks_mut(s.o * n).enumerate() {
        for (o, y) in y.chunks_mut(n).enumerate() {
            y.copy_from_slice(&from[o * width + j * n..][..n]);
        }
    }
}

/// Calls `f(first column, columns, col)` for every tile of a sample's output.
fn tiles(s: &Sizes, whole: bool, col: &mut Vec<f32>, mut f: impl FnMut(usize, usize, &mut [f32])) {
    let (rows, ow) = (tile_rows(s, whole), s.ow());
    col.resize(s.rows() * rows * ow, 0.0);
    for first in (0..s.oh()).step_by(rows) {
        let n = rows.min(s.oh() - first);
        f(first, n, &mut col[..s.rows() * n * ow]);
    }
}

/// `conv2d(x, w) + bias`.
pub fn conv2d(s: Sizes, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (n, k, xs, ow) = (s.out_span(), s.rows(), s.c * s.h * s.w, s.ow());
    let mut out = super::buffer(s.b * s.o * n);
    let one = |x: &[f32], out: &mut [f32], col: &mut Vec<f32>, parallel: bool| {
        let keep = if let Some(bias) = bias {
            for (o, &b) in out.chunks_mut(n).zip(bias) {
                o.fill(b);
            }
            1.0
        } else {
            0.0
        };
        let wm = Mat::new(w, s.o, k);
        if s.pointwise() {
            gemm_into(out, n, wm, Mat::new(x, k, n), keep, 1.0, parallel);
        } else {
            tiles(&s, parallel, col, |first, rows, col| {
                im2col(&s, x, (first, rows), col, (0, rows * ow));
                gemm_into(&mut out[first * ow..], n, wm, Mat::new(col, k, rows * ow), keep, 1.0, parallel);
            });
        }
    };
    let group = joined(&s);
    if group > 1 {
        let buffers = || (Vec::new(), Vec::new());
        out.par_chunks_mut(group * s.o * n).zip(x.par_chunks(group * xs)).for_each_init(
            buffers,
            |(col, y), (out, x)| {
                let width = out.len() / s.o;
                unfold_group(&s, x, col);
                y.resize(out.len(), 0.0);
                for (o, row) in y.chunks_mut(width).enumerate() {
                    row.fill(bias.map_or(0.0, |b| b[o]));
                }
                gemm_into(y, width, Mat::new(w, s.o, k), Mat::new(col, k, width), 1.0, 1.0, false);
                scatter(&s, y, out);
            },
        );
    } else if by_sample(&s) {
        out.par_chunks_mut(s.o * n)
            .zip(x.par_chunks(xs))
            .for_each_init(Vec::new, |col, (out, x)| one(x, out, col, false));
    } else {
        let mut col = Vec::new();
        for (out, x) in out.chunks_mut(s.o * n).zip(x.chunks(xs)) {
            one(x, out, &mut col, true);
        }
    }
    out
}

/// Gradient of the input.
pub fn conv2d_input_backward(s: Sizes, w: &[f32], gy: &[f32]) -> Vec<f32> {
    let (n, k, xs, ow) = (s.out_span(), s.rows(), s.c * s.h * s.w, s.ow());
    let mut gx = super::buffer(s.b * xs);
    let one = |gy: &[f32], gx: &mut [f32], col: &mut Vec<f32>, parallel: bool| {
        let wt = Mat::new(w, s.o, k).t();
        if s.pointwise() {
            gemm_into(gx, n, wt, Mat::new(gy, s.o, n), 0.0, 1.0, parallel);
        } else {
            tiles(&s, parallel, col, |first, rows, col| {
                let g = Mat::strided(&gy[first * ow..], s.o, rows * ow, n, 1);
                gemm_into(col, rows * ow, wt, g, 0.0, 1.0, parallel);
                col2im(&s, col, (first, rows), gx, (0, rows * ow));
            });
        }
    };
    let group = joined(&s);
    if group > 1 {
        let buffers = || (Vec::new(), Vec::new());
        gx.par_chunks_mut(group * xs).zip(gy.par_chunks(group * s.o * n)).for_each_init(
            buffers,
            |(col, y), (gx, gy)| {
                let width = gy.len() / s.o;
                gather(&s, gy, y);
                col.resize(k * width, 0.0);
                gemm_into(col, width, Mat::new(w, s.o, k).t(), Mat::new(y, s.o, width), 0.0, 1.0, false);
                for (j, gx) in gx.chunks_mut(xs).enumerate() {
                    col2im(&s, col, (0, s.oh()), gx, (j * n, width));
                }
            },
        );
    } else if by_sample(&s) {
        gx.par_chunks_mut(xs)
            .zip(gy.par_chunks(s.o * n))
            .for_each_init(Vec::new, |col, (gx, gy)| one(gy, gx, col, false));
    } else {
        let mut col = Vec::new();
        for (gx, gy) in gx.chunks_mut(xs).zip(gy.chunks(s.o * n)) {
            one(gy, gx, &mut col, true);
        }
    }
    gx
}

/// Gradient of the weight. Samples are summed in a fixed order, so the result does not depend on timing.
pub fn conv2d_weight_backward(s: Sizes, x: &[f32], gy: &[f32]) -> Vec<f32> {
    let (n, k, xs, ow) = (s.out_span(), s.rows(), s.c * s.h * s.w, s.ow());
    let sum = |x: &[f32], gy: &[f32], parallel: bool| {
        let mut gw = super::buffer(s.o * k);
        let mut col = Vec::new();
        let group = joined(&s);
        if group > 1 {
            let mut y = Vec::new();
            for (x, gy) in x.chunks(group * xs).zip(gy.chunks(group * s.o * n)) {
                let width = gy.len() / s.o;
                unfold_group(&s, x, &mut col);
                gather(&s, gy, &mut y);
                let (a, b) = (Mat::new(&y, s.o, width), Mat::new(&col, k, width).t());
                gemm_into(&mut gw, k, a, b, 1.0, 1.0, false);
            }
            return gw;
        }
        for (x, gy) in x.chunks(xs).zip(gy.chunks(s.o * n)) {
            if s.pointwise() {
                gemm_into(&mut gw, k, Mat::new(gy, s.o, n), Mat::new(x, k, n).t(), 1.0, 1.0, parallel);
                continue;
            }
            tiles(&s, parallel, &mut col, |first, rows, col| {
                im2col(&s, x, (first, rows), col, (0, rows * ow));
                let g = Mat::strided(&gy[first * ow..], s.o, rows * ow, n, 1);
                gemm_into(&mut gw, k, g, Mat::new(col, k, rows * ow).t(), 1.0, 1.0, parallel);
            });
        }
        gw
    };
    if !by_sample(&s) {
        return sum(x, gy, true);
    }
    let per = s.b.div_ceil(rayon::current_num_threads());
    let parts: Vec<Vec<f32>> =
        x.par_chunks(per * xs).zip(gy.par_chunks(per * s.o * n)).map(|(x, gy)| sum(x, gy, false)).collect();
    parts
        .into_iter()
        .reduce(|mut a, b| {
            super::act::add_assign(&mut a, &b);
            a
        })
        .unwrap_or_default()
}

/// Gradient of the bias: sums over samples and pixels.
pub fn conv2d_bias_backward(s: Sizes, gy: &[f32]) -> Vec<f32> {
    let n = s.out_span();
    let mut gb = vec![0.0; s.o];
    for sample in gy.chunks(s.o * n) {
        for (g, plane) in gb.iter_mut().zip(sample.chunks(n)) {
            *g += super::act::sum(plane);
        }
    }
    gb
}
