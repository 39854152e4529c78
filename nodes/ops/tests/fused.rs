//! Every operation on the CPU's fused kernels against its composed body on burn's flex device:
//! result and every gradient.

use std::collections::HashMap;

use pipe_ops::op::{self, AttentionArgs};
use pipe_ops::rng::{self, Purpose};
use pipe_ops::{Cx, DType, Device, Tape, Tensor, Var};

fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    rng::normal(&mut rng::named_stream(7, Purpose::Noise, 0, name), shape.iter().product())
}

/// Runs `f` on random inputs of the given shapes; gives the result and the gradients of all inputs
/// for a random cotangent.
fn run(device: Device, shapes: &[&[usize]], f: &dyn Fn(&Cx, &[Var]) -> Var) -> Vec<Vec<f32>> {
    let plain = Cx::new(device, DType::F32);
    let tape = Tape::new();
    let cx = plain.with_tape(&tape);
    let inputs: Vec<Var> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| tape.input(plain.device.tensor(values(&format!("input {i}"), s), s, DType::F32)))
        .collect();
    let y = f(&cx, &inputs);
    let cotangent = plain.device.tensor(values("cotangent", y.shape()), y.shape(), DType::F32);
    let mut out = vec![y.value.to_vec()];
    let grads = tape.backward(&cx, vec![(y, cotangent)], &inputs, &mut HashMap::new());
    out.extend(grads.into_iter().map(|g: Option<Tensor>| g.map(|g| g.to_vec()).unwrap_or_default()));
    out
}

fn compare(name: &str, shapes: &[&[usize]], f: impl Fn(&Cx, &[Var]) -> Var) {
    let fused = run(Device::Cpu, shapes, &f);
    let composed = run(Device::composed_cpu(), shapes, &f);
    for (i, (a, b)) in fused.iter().zip(&composed).enumerate() {
        assert_eq!(a.len(), b.len(), "{name}: length of output {i}");
        let scale = b.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() <= 3e-5 * scale, "{name}: output {i}: {x} and {y} (scale {scale})");
        }
        assert!(b.iter().any(|x| *x != 0.0), "{name}: output {i} is all zero");
    }
}

#[test]
fn activations() {
    compare("silu", &[&[3, 37]], |cx, x| op::silu(cx, &x[0]));
    compare("gelu", &[&[3, 37]], |cx, x| op::gelu(cx, &x[0]));
    compare("quick_gelu", &[&[3, 37]], |cx, x| op::quick_gelu(cx, &x[0]));
    compare("gelu_tanh", &[&[3, 37]], |cx, x| op::gelu_tanh(cx, &x[0]));
    compare("tanh", &[&[3, 37]], |cx, x| op::tanh(cx, &x[0]));
    compare("geglu", &[&[2, 5, 38]], |cx, x| op::geglu(cx, &x[0]));
}

#[test]
fn sums() {
    compare("add", &[&[2, 3, 5], &[2, 3, 5]], |cx, x| op::add(cx, &x[0], &x[1]));
    compare("scale", &[&[2, 9]], |cx, x| op::scale(cx, &x[0], 0.37));
    compare("add_channels", &[&[2, 3, 4, 5], &[2, 3]], |cx, x| op::add_channels(cx, &x[0], &x[1]));
    compare("add_positions", &[&[2, 4, 6], &[4, 6]], |cx, x| op::add_positions(cx, &x[0], &x[1]));
    compare("mul", &[&[2, 3, 5], &[2, 3, 5]], |cx, x| op::mul(cx, &x[0], &x[1]));
    compare("offset", &[&[2, 9]], |cx, x| op::offset(cx, &x[0], 1.0));
    compare("modulate", &[&[2, 3, 5], &[2, 5], &[2, 5]], |cx, x| op::modulate(cx, &x[0], &x[1], Some(&x[2])));
    compare("modulate without shift", &[&[2, 3, 5], &[2, 5]], |cx, x| op::modulate(cx, &x[0], &x[1], None));
    compare("gate", &[&[2, 3, 5], &[2, 5]], |cx, x| op::gate(cx, &x[0], &x[1]));
    compare("gate of one channel", &[&[5, 70, 1], &[5, 1]], |cx, x| op::gate(cx, &x[0], &x[1]));
    compare("weighted sum", &[&[2, 3, 5]], |cx, x| {
        let w = cx.device.tensor(vec![0.5, 0.5, 0.0, 0.2, 0.3, 0.5], &[2, 3], DType::F32);
        op::weighted_sum(cx, &x[0], &w)
    });
    compare("used twice", &[&[2, 9]], |cx, x| op::add(cx, &op::silu(cx, &x[0]), &x[0]));
}

#[test]
fn linear_and_embedding() {
    compare("linear", &[&[2, 7, 12], &[20, 12], &[20]], |cx, x| op::linear(cx, &x[0], &x[1], Some(&x[2])));
    compare("linear without bias", &[&[5, 12], &[3, 12]], |cx, x| op::linear(cx, &x[0], &x[1], None));
    compare("embedding", &[&[10, 6]], |cx, x| op::embedding(cx, &x[0], &[3, 3, 9, 0]));
}

#[test]
fn convolutions() {
    let conv = |stride, pad| move |cx: &Cx, x: &[Var]| op::conv2d(cx, &x[0], &x[1], Some(&x[2]), stride, pad);
    compare("3×3", &[&[3, 4, 9, 7], &[6, 4, 3, 3], &[6]], conv(1, [1; 4]));
    compare("3×3, one sample", &[&[1, 4, 9, 7], &[6, 4, 3, 3], &[6]], conv(1, [1; 4]));
    compare("stride 2", &[&[2, 4, 8, 10], &[6, 4, 3, 3], &[6]], conv(2, [1; 4]));
    compare("stride 2, odd", &[&[2, 4, 7, 9], &[6, 4, 3, 3], &[6]], conv(2, [1; 4]));
    compare("asymmetric padding", &[&[2, 4, 8, 10], &[6, 4, 3, 3], &[6]], conv(2, op::downsample_pad()));
    compare("1×1", &[&[2, 4, 5, 6], &[3, 4, 1, 1], &[3]], conv(1, [0; 4]));
    compare("one pixel", &[&[2, 4, 1, 1], &[3, 4, 3, 3], &[3]], conv(1, [1; 4]));
}

#[test]
fn norms() {
    for silu in [false, true] {
        compare("group norm", &[&[2, 12, 5, 7], &[12], &[12]], move |cx, x| {
            op::group_norm(cx, &x[0], &x[1], &x[2], 3, 1e-5, silu)
        });
    }
    compare("plain layer norm", &[&[2, 5, 41]], |cx, x| op::layer_norm_plain(cx, &x[0], 1e-6));
    compare("rms norm", &[&[2, 5, 41], &[41]], |cx, x| op::rms_norm(cx, &x[0], &x[1], 1e-6));
    compare("layer norm", &[&[2, 5, 41], &[41], &[41]], |cx, x| op::layer_norm(cx, &x[0], &x[1], &x[2], 1e-5));
}

#[test]
fn attentions() {
    let plain = |cx: &Cx, x: &[Var]| op::attention(cx, &x[0], &x[1], &x[2], &AttentionArgs::heads(2));
    compare("self", &[&[2, 150, 16], &[2, 150, 16], &[2, 150, 16]], plain);
    compare("cross", &[&[2, 70, 16], &[2, 9, 16], &[2, 9, 16]], plain);
    compare("causal", &[&[1, 77, 16], &[1, 77, 16], &[1, 77, 16]], |cx, x| {
        let args = AttentionArgs { causal: true, ..AttentionArgs::heads(4) };
        op::attention(cx, &x[0], &x[1], &x[2], &args)
    });
    compare("masked", &[&[2, 20, 8], &[2, 6, 8], &[2, 6, 8]], |cx, x| {
        let mask = vec![1., 1., 1., 0., 0., 0., 1., 1., 1., 1., 1., 0.];
        let args = AttentionArgs { mask: Some(cx.device.tensor(mask, &[2, 6], DType::F32)), ..AttentionArgs::heads(2) };
        op::attention(cx, &x[0], &x[1], &x[2], &args)
    });
}

#[test]
fn grouped_biased_and_capped_attention() {
    compare("grouped", &[&[2, 70, 24], &[2, 9, 8], &[2, 9, 8]], |cx, x| {
        let args = AttentionArgs { kv_heads: Some(2), ..AttentionArgs::heads(6) };
        op::attention(cx, &x[0], &x[1], &x[2], &args)
    });
    compare("biased", &[&[2, 70, 8], &[2, 66, 8], &[2, 66, 8], &[2, 70, 66]], |cx, x| {
        let args = AttentionArgs { bias: Some(x[3].clone()), scale: Some(1.0), ..AttentionArgs::heads(2) };
        op::attention(cx, &x[0], &x[1], &x[2], &args)
    });
    compare("capped", &[&[1, 70, 8], &[1, 70, 8], &[1, 70, 8]], |cx, x| {
        let mut mask = vec![1.0; 70];
        mask[60..].fill(0.0);
        let mask = Some(cx.device.tensor(mask, &[1, 70], DType::F32));
        let args = AttentionArgs { softcap: Some(1.5), causal: true, mask, ..AttentionArgs::heads(2) };
        op::attention(cx, &x[0], &x[1], &x[2], &args)
    });
}

#[test]
fn rotary_embeddings() {
    let angles: Vec<f64> = (0..2 * 5 * 3).map(|i| i as f64 * 0.37).collect();
    for pairs in [op::Pairs::Adjacent, op::Pairs::Halves] {
        for b in [1, 2] {
            let angles = angles.clone();
            compare("rope", &[&[2, 5, 12]], move |cx, x| {
                let table = op::RopeTable::new(&cx.device, &angles[..b * 15], [b, 5, 3]);
                op::rope(cx, &x[0], 2, &table, pairs)
            });
        }
    }
}

#[test]
fn patches() {
    for order in [op::PatchOrder::ChannelFirst, op::PatchOrder::ChannelLast] {
        compare("patchify", &[&[2, 3, 4, 6]], move |cx, x| op::patchify(cx, &x[0], 2, order));
        compare("unpatchify", &[&[2, 6, 12]], move |cx, x| op::unpatchify(cx, &x[0], 2, 3, 2, order));
        let cx = Cx::cpu();
        let x = Var::constant(Tensor::host(values("image", &[2, 3, 4, 6]), &[2, 3, 4, 6]));
        let tokens = op::patchify(&cx, &x, 2, order);
        assert_eq!(op::unpatchify(&cx, &tokens, 2, 3, 2, order).value.to_vec(), x.value.to_vec());
    }
    compare("permute", &[&[2, 3, 4]], |cx, x| op::permute(cx, &x[0], &[2, 3, 2, 2], &[3, 0, 2, 1]));
}

#[test]
fn shapes() {
    compare("tokens", &[&[2, 3, 4, 5]], |cx, x| op::to_tokens(cx, &x[0]));
    compare("from tokens", &[&[2, 20, 3]], |cx, x| op::from_tokens(cx, &x[0], 4, 5));
    compare("concat", &[&[2, 3, 4], &[2, 5, 4]], |cx, x| op::concat(cx, &[&x[0], &x[1]], 1));
    compare("narrow", &[&[2, 7, 4]], |cx, x| op::narrow(cx, &x[0], 1, 2, 3));
    compare("reshape", &[&[2, 6, 4]], |cx, x| op::reshape(cx, &x[0], &[4, 12]));
    compare("upsample", &[&[2, 3, 4, 5]], |cx, x| op::upsample(cx, &x[0], 8, 10));
    compare("upsample to odd", &[&[1, 2, 3, 2]], |cx, x| op::upsample(cx, &x[0], 5, 3));
}

#[test]
fn element_losses() {
    use op::Elementwise::{Huber, L1, L2, SmoothL1};
    let mask = values("mask", &[2, 5]);
    for (kind, c, places) in
        [(L2, vec![]), (L1, vec![]), (Huber, vec![0.1, 0.7]), (SmoothL1, vec![0.1, 0.7])].into_iter().flat_map(
            |(kind, c)| [(kind, c.clone(), None), (kind, c, Some(mask.iter().map(|m| m.abs()).collect::<Vec<_>>()))],
        )
    {
        let run = |device: Device| {
            let cx = Cx::new(device, DType::F32);
            let make = |name| cx.device.tensor(values(name, &[2, 3, 5]), &[2, 3, 5], DType::F32);
            let (each, grad) = {
                let weigh = op::Weigh { samples: &[1.0, 0.25], c: &c, places: places.as_deref() };
                op::loss_and_grad(&cx, kind, &make("p"), &make("t"), weigh)
            };
            (each.to_vec(), grad.to_vec())
        };
        let (a, b) = (run(Device::Cpu), run(Device::composed_cpu()));
        for (x, y) in a.0.iter().chain(&a.1).zip(b.0.iter().chain(&b.1)) {
            assert!((x - y).abs() < 1e-6, "{kind:?}: {x} {y}");
        }
        assert!(a.0.iter().all(|l| *l > 0.0));
    }
}

#[test]
fn gaussian() {
    compare("sample", &[&[2, 6, 4, 5]], |cx, x| {
        let noise = cx.device.tensor(values("noise", &[2, 3, 4, 5]), &[2, 3, 4, 5], DType::F32);
        op::sample_gaussian(cx, &x[0], Some(&noise), 0.3)
    });
}

/// Gradients against central differences, so that the two bodies cannot share a mistake.
#[test]
fn gradients_are_derivatives() {
    type Op = (&'static str, Vec<Vec<usize>>, fn(&Cx, &[Var]) -> Var);
    let cases: Vec<Op> = vec![
        ("attention", vec![vec![1, 5, 8], vec![1, 4, 8], vec![1, 4, 8]], |cx, x| {
            op::attention(cx, &x[0], &x[1], &x[2], &AttentionArgs::heads(2))
        }),
        ("group norm", vec![vec![2, 4, 3, 3], vec![4], vec![4]], |cx, x| {
            op::group_norm(cx, &x[0], &x[1], &x[2], 2, 1e-5, true)
        }),
        ("conv", vec![vec![2, 3, 5, 5], vec![4, 3, 3, 3], vec![4]], |cx, x| {
            op::conv2d(cx, &x[0], &x[1], Some(&x[2]), 2, [1; 4])
        }),
        ("capped grouped attention", vec![vec![1, 5, 8], vec![1, 4, 4], vec![1, 4, 4], vec![2, 5, 4]], |cx, x| {
            let bias = Some(x[3].clone());
            let args = AttentionArgs { kv_heads: Some(1), softcap: Some(2.0), bias, ..AttentionArgs::heads(2) };
            op::attention(cx, &x[0], &x[1], &x[2], &args)
        }),
        ("rms norm", vec![vec![3, 8], vec![8]], |cx, x| op::rms_norm(cx, &x[0], &x[1], 1e-6)),
        ("modulate", vec![vec![2, 3, 4], vec![2, 4], vec![2, 4]], |cx, x| {
            op::modulate(cx, &op::gelu_tanh(cx, &x[0]), &x[1], Some(&x[2]))
        }),
        ("rope", vec![vec![1, 3, 8]], |cx, x| {
            let angles: Vec<f64> = (0..6).map(|i| i as f64).collect();
            op::rope(cx, &x[0], 2, &op::RopeTable::new(&cx.device, &angles, [1, 3, 2]), op::Pairs::Adjacent)
        }),
        ("geglu", vec![vec![3, 8]], |cx, x| op::geglu(cx, &x[0])),
    ];
    for (name, shapes, f) in cases {
        let refs: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let out = run(Device::Cpu, &refs, &f);
        let cx = Cx::cpu();
        let inputs: Vec<Vec<f32>> = refs.iter().enumerate().map(|(i, s)| values(&format!("input {i}"), s)).collect();
        let value = |inputs: &[Vec<f32>]| -> f64 {
            let vars: Vec<Var> =
                inputs.iter().zip(&refs).map(|(v, s)| Var::constant(Tensor::host(v.clone(), s))).collect();
            let y = f(&cx, &vars);
            let c = values("cotangent", y.shape());
            y.value.to_vec().iter().zip(c).map(|(y, c)| *y as f64 * c as f64).sum()
        };
        for (i, grad) in out[1..].iter().enumerate() {
            let scale = grad.iter().fold(0.1f32, |m, g| m.max(g.abs()));
            for j in (0..grad.len()).step_by(1 + grad.len() / 9) {
                let h = 1e-2;
                let mut up = inputs.clone();
                up[i][j] += h;
                let mut down = inputs.clone();
                down[i][j] -= h;
                let numeric = ((value(&up) - value(&down)) / (2.0 * h as f64)) as f32;
                assert!((numeric - grad[j]).abs() < 2e-2 * scale, "{name}: input {i}[{j}]: {} but {numeric}", grad[j]);
            }
        }
    }
}

#[test]
fn adamw_bodies_agree() {
    let p = pipe_ops::optim::AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        correction1: 0.1,
        correction2_sqrt: 0.001f32.sqrt(),
        grad_scale: 0.5,
    };
    let run = |device: Device| {
        let cx = Cx::new(device, DType::F32);
        let make = |name| cx.device.tensor(values(name, &[33]), &[33], DType::F32);
        let (mut t, mut m, mut v, g) =
            (make("t"), make("m"), cx.device.tensor(vec![0.5; 33], &[33], DType::F32), make("g"));
        pipe_ops::optim::adamw(&cx, &p, &mut t, &mut m, &mut v, &g, None);
        (t.to_vec(), m.to_vec(), v.to_vec(), pipe_ops::optim::sum_squares(&cx, &[&g]))
    };
    let (a, b) = (run(Device::Cpu), run(Device::composed_cpu()));
    for (x, y) in a.0.iter().chain(&a.1).chain(&a.2).zip(b.0.iter().chain(&b.1).chain(&b.2)) {
        assert!((x - y).abs() < 1e-5, "{x} {y}");
    }
    assert!((a.3 - b.3).abs() < 1e-3);
}

#[test]
fn products_of_factors() {
    compare("matmul", &[&[7, 3], &[3, 11]], |cx, x| op::matmul(cx, &x[0], &x[1]));
    compare("matmul in groups", &[&[4, 7, 3], &[4, 3, 5]], |cx, x| op::matmul(cx, &x[0], &x[1]));
    compare("with_row_norms", &[&[6, 5], &[6]], |cx, x| op::with_row_norms(cx, &x[0], &x[1]));
    compare("with_row_norms of a kernel", &[&[6, 2, 3, 3], &[6, 1, 1, 1]], |cx, x| {
        op::with_row_norms(cx, &x[0], &x[1])
    });
    compare("cayley", &[&[3, 4, 4]], |cx, x| op::cayley_transposed(cx, &x[0], 1.0));
}
