//! Masks at the size of latents.

use crate::Invalid;

/// Means over areas, as PyTorch's `interpolate(mode="area")`: output cell i covers input rows
/// `⌊i·h/oh⌋` to `⌈(i+1)·h/oh⌉`. `mask` is `[h, w]`, the result `[oh, ow]`. Errors if the mask is empty or not `h·w` long.
pub fn area_resize(mask: &[f32], (h, w): (usize, usize), (oh, ow): (usize, usize)) -> Result<Vec<f32>, Invalid> {
    if mask.is_empty() || mask.len() != h * w {
        return Err(Invalid::new("mask", format!("{} values for {h}×{w} places", mask.len())));
    }
    let span = |i: usize, n: usize, out: usize| (i * n / out, ((i + 1) * n).div_ceil(out));
    let mut result = Vec::with_capacity(oh * ow);
    for y in 0..oh {
        let (top, bottom) = span(y, h, oh);
        for x in 0..ow {
            let (left, right) = span(x, w, ow);
            let sum: f32 = (top..bottom).map(|r| mask[r * w + left..r * w + right].iter().sum::<f32>()).sum();
            result.push(sum / ((bottom - top) * (right - left)) as f32);
        }
    }
    Ok(result)
}
