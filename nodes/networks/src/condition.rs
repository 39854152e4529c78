//! How the outputs of several text encoders become what a denoiser reads.

use pipe_ops::op;
use pipe_ops::{Cx, Var};

use crate::net::Net;
use crate::network::Network;
use crate::segment::{Builder, Slot};
use crate::text::{TextKind, TextOut};

/// What a denoiser reads of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// `[B, S, D]`.
    pub context: Slot,
    /// `[B, P]`.
    pub pooled: Option<Slot>,
}

/// Tokens that stand for a missing T5 (SD3).
const NO_TOKENS: usize = 77;

/// Adds the segments that join the encoders' outputs, or says which encoder is missing.
///
/// SD 1.x, 2.x, Lumina: the encoder's hidden states. SDXL: CLIP-L and bigG side by side, bigG's pooled vector.
/// FLUX: T5's hidden states, CLIP-L's pooled vector. SD3: CLIP-L and bigG side by side, filled up with zeros to T5's
/// width, then T5's tokens; any of the three may be missing and is zero then.
pub fn assemble(
    b: &mut Builder,
    network: &Network,
    outs: &dyn Fn(TextKind) -> Option<TextOut>,
) -> Result<Conditions, TextKind> {
    let need = |kind: TextKind| outs(kind).ok_or(kind);
    let pooled_of = |kind: TextKind| need(kind).and_then(|o| o.pooled.ok_or(kind));
    match network {
        Network::Unet(c) if c.sizes.is_none() => Ok(Conditions { context: need(TextKind::Clip)?.hidden, pooled: None }),
        Network::Unet(_) => {
            let (l, g) = (need(TextKind::Clip)?.hidden, need(TextKind::ClipG)?.hidden);
            let context = b.push("joined text", &[], &[l, g], |net, x| op::concat(net.cx, &[&x[0], &x[1]], 2));
            Ok(Conditions { context, pooled: Some(pooled_of(TextKind::ClipG)?) })
        }
        Network::Flux(_) => {
            Ok(Conditions { context: need(TextKind::T5)?.hidden, pooled: Some(pooled_of(TextKind::Clip)?) })
        }
        Network::Lumina2(_) | Network::LuminaNext(_) => {
            Ok(Conditions { context: need(TextKind::Gemma)?.hidden, pooled: None })
        }
        Network::Mmdit(c) => {
            let (context, pooled) = (c.context, c.pooled);
            let kinds = [TextKind::Clip, TextKind::ClipG, TextKind::T5];
            let present = kinds.map(|k| outs(k).is_some());
            if present == [false; 3] {
                return Err(TextKind::Clip);
            }
            let (of_hidden, hidden): (Vec<TextKind>, Vec<Slot>) =
                kinds.into_iter().filter_map(|k| Some((k, outs(k)?.hidden))).unzip();
            let context = b.push("joined text", &[], &hidden, move |net, x| {
                sd3_context(net.cx, present, &kept(net, &of_hidden, x), context, net.inputs.timesteps.len())
            });
            let (of_vectors, vectors): (Vec<TextKind>, Vec<Slot>) =
                kinds[..2].iter().filter_map(|&k| Some((k, outs(k)?.pooled?))).unzip();
            let pooled = b.push("joined pooled text", &[], &vectors, move |net, x| {
                sd3_pooled(net.cx, present, &kept(net, &of_vectors, x), pooled, net.inputs.timesteps.len())
            });
            Ok(Conditions { context, pooled: Some(pooled) })
        }
    }
}

/// The encoders' outputs `[B, ..]` without those of samples that do without an encoder in this pass.
fn kept(net: &Net, kinds: &[TextKind], x: &[Var]) -> Vec<Var> {
    let of = |(kind, x): (&TextKind, &Var)| {
        let Some(keep) = net.inputs.text_keep.get(kind) else { return x.clone() };
        let span = x.value.len() / keep.len();
        let mask = keep.iter().flat_map(|&keep| std::iter::repeat_n(keep, span)).collect();
        let mask = net.cx.device.tensor(mask, x.shape(), x.value.dtype());
        op::mul_const(net.cx, x, &mask)
    };
    kinds.iter().zip(x).map(of).collect()
}

fn zeros(cx: &Cx, shape: &[usize]) -> Var {
    Var::constant(cx.device.zeros(shape, cx.compute))
}

/// Width that is missing beside one CLIP; they have 768 and 1280 in the published models.
fn missing_width(present: [bool; 3], x: &[Var], total: usize, last: usize) -> (usize, usize) {
    let width = |i: usize| x[i].dim(last);
    match present {
        [true, true, _] => (width(0), width(1)),
        [true, false, _] => (width(0), total.saturating_sub(width(0))),
        [false, true, _] => (total.saturating_sub(width(0)), width(0)),
        _ => (0, 0),
    }
}

fn sd3_context(cx: &Cx, present: [bool; 3], x: &[Var], width: usize, batch: usize) -> Var {
    let clips = present[0] as usize + present[1] as usize;
    let tokens = if clips > 0 { x[0].dim(1) } else { NO_TOKENS };
    let mut parts: Vec<Var> = Vec::new();
    if present[0] {
        parts.push(x[0].clone());
    } else if present[1] {
        // bigG's part starts behind CLIP-L's 768 columns.
        parts.push(zeros(cx, &[batch, tokens, 768.min(width.saturating_sub(x[0].dim(2)))]));
    }
    if present[1] {
        parts.push(x[clips - 1].clone());
    }
    let filled: usize = parts.iter().map(|p| p.dim(2)).sum();
    if filled < width {
        parts.push(zeros(cx, &[batch, tokens, width - filled]));
    }
    let clip = op::concat(cx, &parts.iter().collect::<Vec<_>>(), 2);
    let t5 = if present[2] { x[clips].clone() } else { zeros(cx, &[batch, NO_TOKENS, width]) };
    op::concat(cx, &[&clip, &t5], 1)
}

fn sd3_pooled(cx: &Cx, present: [bool; 3], x: &[Var], width: usize, batch: usize) -> Var {
    let (l, g) = missing_width(present, x, width, 1);
    match present {
        [true, true, _] => op::concat(cx, &[&x[0], &x[1]], 1),
        [true, false, _] => op::concat(cx, &[&x[0], &zeros(cx, &[batch, g])], 1),
        [false, true, _] => op::concat(cx, &[&zeros(cx, &[batch, l]), &x[0]], 1),
        _ => zeros(cx, &[batch, width]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmdit::MmditConfig;
    use crate::net::Inputs;
    use crate::pass::{Policy, Setting};
    use pipe_ops::Tensor;

    /// A sample without an encoder has zeros where that encoder's numbers were, and keeps the others.
    #[test]
    fn sd3_without_an_encoder() {
        let network = Network::Mmdit(MmditConfig { context: 20, pooled: 12, ..MmditConfig::sd3_medium() });
        let mut b = Builder::new();
        b.part("transformer");
        let mut given = Vec::new();
        let mut add = |b: &mut Builder, shape: &[usize], value: f32| {
            let slot = b.input();
            given.push((slot, Tensor::host(vec![value; shape.iter().product()], shape), false));
            slot
        };
        let l = TextOut { hidden: add(&mut b, &[2, 3, 5], 1.0), pooled: Some(add(&mut b, &[2, 5], 1.0)) };
        let g = TextOut { hidden: add(&mut b, &[2, 3, 7], 2.0), pooled: Some(add(&mut b, &[2, 7], 2.0)) };
        let t5 = TextOut { hidden: add(&mut b, &[2, 4, 20], 3.0), pooled: None };
        let outs = |kind| match kind {
            TextKind::Clip => Some(l),
            TextKind::ClipG => Some(g),
            TextKind::T5 => Some(t5),
            TextKind::Gemma => None,
        };
        let Ok(Conditions { context, pooled: Some(pooled) }) = assemble(&mut b, &network, &outs) else {
            panic!("refused")
        };
        let model = b.finish();
        let text_keep = [(TextKind::Clip, vec![0.0, 1.0]), (TextKind::T5, vec![1.0, 0.0])].into();
        let inputs = Inputs { timesteps: vec![0.0; 2], text_keep, ..Default::default() };
        let none = crate::Weights::default();
        let setting =
            Setting { model: &model, weights: vec![&none], train: None, inputs: &inputs, policy: Policy::Keep };
        let pass = setting.forward(&Cx::cpu(), given, &[context, pooled], false);
        // Rows of one sample: CLIP-L's columns, bigG's, zeros; then T5's.
        let sample = |l: f32, t5: f32| {
            let clip = [vec![l; 5], vec![2.0; 7], vec![0.0; 8]].concat();
            [clip.repeat(3), vec![t5; 80]].concat()
        };
        assert_eq!(pass.output(context).to_vec(), [sample(0.0, 3.0), sample(1.0, 0.0)].concat());
        let vector = |l: f32| [vec![l; 5], vec![2.0; 7]].concat();
        assert_eq!(pass.output(pooled).to_vec(), [vector(0.0), vector(1.0)].concat());
    }

    /// Every subset of SD3's encoders gives tensors of the model's widths, with real values where they belong.
    #[test]
    fn any_subset_of_sd3() {
        let network = Network::Mmdit(MmditConfig { context: 20, pooled: 12, ..MmditConfig::sd3_medium() });
        for mask in 1..8u32 {
            let mut b = Builder::new();
            b.part("transformer");
            let mut given = Vec::new();
            let mut add = |b: &mut Builder, shape: &[usize], value: f32| {
                let slot = b.input();
                given.push((slot, Tensor::host(vec![value; shape.iter().product()], shape), false));
                slot
            };
            let l = (mask & 1 > 0)
                .then(|| TextOut { hidden: add(&mut b, &[2, 77, 5], 1.0), pooled: Some(add(&mut b, &[2, 5], 1.0)) });
            let g = (mask & 2 > 0)
                .then(|| TextOut { hidden: add(&mut b, &[2, 77, 7], 2.0), pooled: Some(add(&mut b, &[2, 7], 2.0)) });
            let t5 = (mask & 4 > 0).then(|| TextOut { hidden: add(&mut b, &[2, 30, 20], 3.0), pooled: None });
            let outs = |kind| match kind {
                TextKind::Clip => l,
                TextKind::ClipG => g,
                TextKind::T5 => t5,
                TextKind::Gemma => None,
            };
            let Ok(Conditions { context, pooled: Some(pooled) }) = assemble(&mut b, &network, &outs) else {
                panic!("subset {mask} was refused")
            };
            let model = b.finish();
            let inputs = Inputs { timesteps: vec![0.0; 2], ..Default::default() };
            let none = crate::Weights::default();
            let setting =
                Setting { model: &model, weights: vec![&none], train: None, inputs: &inputs, policy: Policy::Keep };
            let pass = setting.forward(&Cx::cpu(), given, &[context, pooled], false);
            let tokens = 77 + if t5.is_some() { 30 } else { 77 };
            assert_eq!(pass.output(context).shape(), [2, tokens, 20], "subset {mask}");
            assert_eq!(pass.output(pooled).shape(), [2, 12], "subset {mask}");
            let sum: f32 = pass.output(pooled).to_vec().iter().sum();
            assert_eq!(sum, 2.0 * (5.0 * (mask & 1) as f32 + 7.0 * (mask & 2) as f32));
        }
    }
}
