//! Resampling: exact area averages downwards, Lanczos upwards, or a method of choice.
//!
//! All are separable and run over the rows first. Area, bilinear and bicubic are OpenCV's, up to its rounding; Lanczos
//! and box follow Pillow's fixed-point arithmetic, so that their results are Pillow's to the bit.

use super::Rgb8;

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Mean over the covered area; for making smaller.
    Area,
    /// Windowed sinc over three lobes, widened when making smaller.
    Lanczos,
    /// The nearest pixel, as OpenCV's `INTER_NEAREST_EXACT`; of two as near OpenCV takes either.
    Nearest,
    /// Between two pixels of each axis, also when making smaller.
    Bilinear,
    /// Between four pixels of each axis (Keys 1981, a = −0.75), also when making smaller.
    Bicubic,
    /// Pillow's mean over the covered area; the nearest pixel when making larger.
    Box,
}

impl Filter {
    /// The filter of the reference: area when neither side grows, else Lanczos.
    pub fn automatic(from: (usize, usize), to: (usize, usize)) -> Filter {
        if to.0 <= from.0 && to.1 <= from.1 { Filter::Area } else { Filter::Lanczos }
    }
}

/// Resizes to `width` × `height` with the automatic filter; a copy when the size is already right.
pub fn resize(image: &Rgb8, width: usize, height: usize) -> Rgb8 {
    resize_with(image, width, height, Filter::automatic((image.width, image.height), (width, height)))
}

/// Resizes with a given filter.
pub fn resize_with(image: &Rgb8, width: usize, height: usize, filter: Filter) -> Rgb8 {
    if (image.width, image.height) == (width, height) {
        return image.clone();
    }
    if image.width * image.height * width * height == 0 {
        return Rgb8::new(width, height);
    }
    match filter {
        Filter::Area => weighted(image, &area_taps(image.width, width), &area_taps(image.height, height)),
        Filter::Bilinear => weighted(image, &linear_taps(image.width, width), &linear_taps(image.height, height)),
        Filter::Bicubic => weighted(image, &cubic_taps(image.width, width), &cubic_taps(image.height, height)),
        Filter::Nearest => nearest(image, width, height),
        Filter::Lanczos => fixed_point(image, width, height, &LANCZOS),
        Filter::Box => fixed_point(image, width, height, &BOX),
    }
}

/// The source samples one target sample is made of.
struct Taps<W> {
    first: usize,
    weights: Vec<W>,
}

/// Sums of weighted pixels along both axes, rounded once.
fn weighted(image: &Rgb8, columns: &[Taps<f32>], rows: &[Taps<f32>]) -> Rgb8 {
    let (width, height) = (columns.len(), rows.len());
    let mut out = Rgb8::new(width, height);
    let mut narrow = vec![0f32; width * 3];
    let mut sums = vec![0f32; width * 3];
    for (y, taps) in rows.iter().enumerate() {
        sums.fill(0.0);
        for (source, &weight) in (taps.first..).zip(&taps.weights) {
            let row = image.row(source);
            for (x, taps) in columns.iter().enumerate() {
                let mut sum = [0f32; 3];
                for (pixel, &w) in row[taps.first * 3..].as_chunks::<3>().0.iter().zip(&taps.weights) {
                    for (s, &p) in sum.iter_mut().zip(pixel) {
                        *s += w * f32::from(p);
                    }
                }
                narrow[3 * x..3 * x + 3].copy_from_slice(&sum);
            }
            for (sum, x) in sums.iter_mut().zip(&narrow) {
                *sum += weight * x;
            }
        }
        for (pixel, sum) in out.pixels[y * width * 3..][..width * 3].iter_mut().zip(&sums) {
            *pixel = sum.round_ties_even().clamp(0.0, 255.0) as u8;
        }
    }
    out
}

/// Covered fractions, each sample's divided to sum 1.
fn area_taps(source: usize, target: usize) -> Vec<Taps<f32>> {
    let scale = source as f64 / target as f64;
    let tap = |i: usize| {
        let (start, end) = (i as f64 * scale, ((i + 1) as f64 * scale).min(source as f64));
        let first = (start.floor() as usize).min(source - 1);
        let last = (end.ceil() as usize).clamp(first + 1, source);
        let covered = |j: usize| (end.min((j + 1) as f64) - start.max(j as f64)).max(0.0);
        let mut weights: Vec<f64> = (first..last).map(covered).collect();
        // What rounding leaves of a neighbour is not part of it.
        while weights.len() > 1 && weights.last().is_some_and(|w| *w < 1e-6) {
            weights.pop();
        }
        let total: f64 = weights.iter().sum();
        let weights = weights.iter().map(|w| if total > 0.0 { (w / total) as f32 } else { 1.0 }).collect();
        Taps { first, weights }
    };
    (0..target).map(tap).collect()
}

/// Taps of an interpolation between neighbours, of which those outside are the outermost pixel.
fn between(source: usize, target: usize, lead: i64, weights: impl Fn(f64) -> Vec<f64>) -> Vec<Taps<f32>> {
    let scale = source as f64 / target as f64;
    let last = source as i64 - 1;
    let tap = |i: usize| {
        let at = (i as f64 + 0.5) * scale - 0.5;
        let left = at.floor();
        let (start, of) = (left as i64 - lead, weights(at - left));
        let first = start.clamp(0, last);
        let end = (start + of.len() as i64 - 1).clamp(0, last);
        let mut sums = vec![0f32; (end - first + 1) as usize];
        for (j, weight) in (start..).zip(of) {
            sums[(j.clamp(0, last) - first) as usize] += weight as f32;
        }
        Taps { first: first as usize, weights: sums }
    };
    (0..target).map(tap).collect()
}

fn linear_taps(source: usize, target: usize) -> Vec<Taps<f32>> {
    between(source, target, 0, |x| vec![1.0 - x, x])
}

/// Keys' kernel: `(a+2)|x|³ − (a+3)|x|² + 1` up to 1, `a|x|³ − 5a|x|² + 8a|x| − 4a` up to 2.
fn cubic_taps(source: usize, target: usize) -> Vec<Taps<f32>> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    between(source, target, 1, |x| vec![far(1.0 + x), near(x), near(1.0 - x), far(2.0 - x)])
}

/// The pixel at the middle of each target pixel; of two as near the one behind.
fn nearest(image: &Rgb8, width: usize, height: usize) -> Rgb8 {
    let places = |source: usize, target: usize| -> Vec<usize> {
        (0..target).map(|i| ((2 * i + 1) * source / (2 * target)).min(source - 1)).collect()
    };
    let (columns, rows) = (places(image.width, width), places(image.height, height));
    let mut out = Rgb8::new(width, height);
    for (row, y) in out.pixels.chunks_exact_mut(width * 3).zip(rows) {
        let from = image.row(y).as_chunks::<3>().0;
        for (pixel, &x) in row.as_chunks_mut::<3>().0.iter_mut().zip(&columns) {
            *pixel = from[x];
        }
    }
    out
}

/// A kernel of Pillow: how far it reaches, and its weights.
struct Kernel {
    reach: f64,
    weight: fn(f64) -> f64,
}

const LANCZOS: Kernel = Kernel { reach: 3.0, weight: lanczos };
const BOX: Kernel = Kernel { reach: 0.5, weight: |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 } };

/// Bits behind the point in Pillow's 8-bit resampling.
const BITS: u32 = 32 - 8 - 2;

fn fixed_point(image: &Rgb8, width: usize, height: usize, kernel: &Kernel) -> Rgb8 {
    let mut across = image.clone();
    if width != image.width {
        across = Rgb8::new(width, image.height);
        let columns = fixed_taps(image.width, width, kernel);
        for y in 0..image.height {
            let row = image.row(y);
            let out = &mut across.pixels[y * width * 3..][..width * 3];
            for (pixel, taps) in out.as_chunks_mut::<3>().0.iter_mut().zip(&columns) {
                let mut sum = [1i32 << (BITS - 1); 3];
                for (source, &w) in row[taps.first * 3..].as_chunks::<3>().0.iter().zip(&taps.weights) {
                    for (s, &p) in sum.iter_mut().zip(source) {
                        *s += w * i32::from(p);
                    }
                }
                *pixel = sum.map(clip);
            }
        }
    }
    if height == image.height {
        return across;
    }
    let mut out = Rgb8::new(width, height);
    let mut sums = vec![0i32; width * 3];
    for (y, taps) in fixed_taps(image.height, height, kernel).iter().enumerate() {
        sums.fill(1 << (BITS - 1));
        for (source, &w) in (taps.first..).zip(&taps.weights) {
            for (s, &p) in sums.iter_mut().zip(across.row(source)) {
                *s += w * i32::from(p);
            }
        }
        for (pixel, &sum) in out.pixels[y * width * 3..][..width * 3].iter_mut().zip(&sums) {
            *pixel = clip(sum);
        }
    }
    out
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn fixed_taps(source: usize, target: usize, kernel: &Kernel) -> Vec<Taps<i32>> {
    let ratio = source as f64 / target as f64;
    let scale = ratio.max(1.0);
    let support = kernel.reach * scale;
    let tap = |i: usize| {
        let centre = (i as f64 + 0.5) * ratio;
        // Truncation, not floor: that is what Pillow does.
        let first = ((centre - support + 0.5) as i64).max(0) as usize;
        let end = ((centre + support + 0.5) as i64).clamp(0, source as i64) as usize;
        let weigh = |tap: usize| (kernel.weight)((tap as f64 - centre + 0.5) * (1.0 / scale));
        let weights: Vec<f64> = (first..end).map(weigh).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: f64| {
            let w = w * (1.0 / total) * f64::from(1 << BITS);
            if w < 0.0 { (w - 0.5) as i32 } else { (w + 0.5) as i32 }
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..target).map(tap).collect()
}

/// `sinc(x)·sinc(x/3)` for |x| < 3.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 {
            1.0
        } else {
            let x = x * std::f64::consts::PI;
            x.sin() / x
        }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}
