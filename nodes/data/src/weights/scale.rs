//! Scaled 8-bit floats: a weight stored as `value / scale`, with the scale in a tensor of its own.
//!
//! Two namings are in use: `X.scale_weight` and `X.weight_scale` beside `X.weight`. The scale is one number, or one for
//! each row of the weight. A marker tensor `scaled_fp8` says that a file is of this kind, and `X.scale_input` or
//! `X.input_scale` may hold a scale for activations; neither changes a weight's value.

use super::dtype::DType;
use super::header::TensorInfo;

/// What is appended to a layer's name for its weight.
const WEIGHT: &str = ".weight";
/// The same for its scale.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];
/// The same for the scale of its input.
const INPUTS: [&str; 2] = [".scale_input", ".input_scale"];

/// The scale of a weight: its name and shape.
pub(crate) fn of_weight<'a>(
    name: &str,
    info: impl Fn(&str) -> Option<&'a TensorInfo>,
) -> Option<(String, &'a TensorInfo)> {
    let layer = name.strip_suffix(WEIGHT)?;
    if !is_f8(info(name)?.dtype) {
        return None;
    }
    SCALES.iter().find_map(|ending| {
        let scale = format!("{layer}{ending}");
        let info = info(&scale)?;
        Some((scale, info))
    })
}

/// Whether a tensor is a scale, for a weight or an input, or the marker, and so no weight itself.
pub(crate) fn is_beside_weight<'a>(name: &str, info: impl Fn(&str) -> Option<&'a TensorInfo>) -> bool {
    if is_marker(name) {
        return true;
    }
    let layer = SCALES.iter().chain(&INPUTS).find_map(|ending| name.strip_suffix(ending));
    layer.and_then(|layer| info(&format!("{layer}{WEIGHT}"))).is_some_and(|weight| is_f8(weight.dtype))
}

/// Whether a tensor is the marker of scaled 8-bit floats.
pub(crate) fn is_marker(name: &str) -> bool {
    name.rsplit('.').next() == Some("scaled_fp8")
}

/// Whether a weight of a marked file has to have a scale: matrices in 8 bits do, tables of tokens and places do not.
pub(crate) fn needs_scale(name: &str, info: &TensorInfo) -> bool {
    let table = ["embed", "shared."].iter().any(|part| name.contains(part));
    name.ends_with(WEIGHT) && info.shape.len() == 2 && is_f8(info.dtype) && !table
}

/// Whether a scale fits a weight: one number, or one a row.
pub(crate) fn fits(scale: &TensorInfo, weight: &TensorInfo) -> bool {
    scale.dtype.is_float() && (scale.elements() == 1 || weight.shape.first() == Some(&scale.elements()))
}

/// Multiplies values by a scale that [`fits`] them.
pub(crate) fn multiply(values: &mut [f32], scale: &[f32]) {
    match scale {
        [] => {}
        [scale] => values.iter_mut().for_each(|x| *x *= scale),
        scales => {
            let row = (values.len() / scales.len()).max(1);
            for (row, scale) in values.chunks_mut(row).zip(scales) {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }
}

fn is_f8(dtype: DType) -> bool {
    matches!(dtype, DType::F8E4M3 | DType::F8E5M2)
}
