//! Schedules, noise, weights, losses, flow matching and samplers against the Python libraries, on the same draws
//! (`tests/reference/make_losses.py`).

mod support;

use pipe_train::ddpm::{IpNoise, Multires, NoiseOffset, NoiseSchedule, Prediction, PyramidLevel, SnrOf, SnrWeights};
use pipe_train::flow::{Sampling, Scheme, Timesteps};
use pipe_train::loss::{Huber, HuberSchedule, LossType, Reduce, area_resize, elements, sample};
use pipe_train::schedule::Schedule;
use support::{Fixture, close, path};

#[test]
fn learning_rates_at_every_step() {
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path("train/lr_schedules.json")).unwrap()).unwrap();
    let values = Fixture::open("train/lr_schedules.safetensors");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 45);
    for case in cases {
        let schedule: Schedule = serde_json::from_value(case["config"].clone()).unwrap();
        let total = case["total"].as_u64().unwrap();
        // Cycles of a step each are no use in a run, but have a rate at each step like any.
        if let Err(invalid) = schedule.check(total) {
            assert_eq!(invalid.field, "cycles", "{schedule:?}");
        }
        assert_eq!(schedule.name(total), case["name"].as_str().unwrap());
        let theirs = values.f64(case["key"].as_str().unwrap());
        for (t, theirs) in theirs.iter().enumerate() {
            let ours = schedule.factor(t as u64, total);
            assert!((ours - theirs).abs() <= 1e-7, "{schedule:?} at {t} of {total}: {ours} {theirs}");
        }
        assert_eq!(schedule.factors(total)[total as usize - 1], schedule.factor(total - 1, total));
    }
}

#[test]
fn noise_schedules_and_targets() {
    let f = Fixture::open("train/ddpm.safetensors");
    let plain = NoiseSchedule::scaled_linear();
    let zero = plain.clone().zero_terminal_snr();
    assert_eq!(plain.betas(), f.f32("betas"));
    assert_eq!(plain.alphas(), f.f32("alphas"));
    close("zero.betas", zero.betas(), &f.f32("zero.betas"), 1e-6);
    close("zero.alphas", zero.alphas(), &f.f32("zero.alphas"), 1e-6);
    let (x0, noise, t) = (f.f32("x0"), f.f32("noise"), f.i64("t"));
    let span = x0.len() / t.len();
    for (name, schedule) in [("plain", &plain), ("zero", &zero)] {
        let (mut noisy, mut velocity) = (vec![0.0; x0.len()], vec![0.0; x0.len()]);
        for (i, &t) in t.iter().enumerate() {
            let part = i * span..(i + 1) * span;
            let (x0, noise) = (&x0[part.clone()], &noise[part.clone()]);
            schedule.noisy(t as usize, x0, noise, &mut noisy[part.clone()]);
            schedule.target(Prediction::V, t as usize, x0, noise, &mut velocity[part.clone()]);
            let mut epsilon = vec![0.0; span];
            schedule.target(Prediction::Epsilon, t as usize, x0, noise, &mut epsilon);
            assert_eq!(epsilon, noise);
        }
        close("noisy", &noisy, &f.f32(&format!("{name}.noisy")), 1e-6);
        close("velocity", &velocity, &f.f32(&format!("{name}.velocity")), 1e-6);
    }
}

#[test]
fn weights_by_signal_to_noise_ratio() {
    let f = Fixture::open("train/ddpm.safetensors");
    let schedule = NoiseSchedule::scaled_linear();
    let none = SnrWeights::default;
    for (kind, name, weights) in [
        (Prediction::Epsilon, "epsilon.min_snr_gamma", SnrWeights { min_snr_gamma: Some(5.0), ..none() }),
        (Prediction::Epsilon, "epsilon.debiased", SnrWeights { debiased_estimation_loss: true, ..none() }),
        (Prediction::Epsilon, "epsilon.v_pred_like", SnrWeights { v_pred_like_loss: Some(0.7), ..none() }),
        (Prediction::V, "v.min_snr_gamma", SnrWeights { min_snr_gamma: Some(5.0), ..none() }),
        (Prediction::V, "v.debiased", SnrWeights { debiased_estimation_loss: true, ..none() }),
        (Prediction::V, "v.scale_v", SnrWeights { scale_v_pred_loss_like_noise_pred: true, ..none() }),
    ] {
        weights.check(kind, false).unwrap();
        let theirs = f.f32(&format!("weight.{name}"));
        for (t, theirs) in f.i64("t").into_iter().zip(theirs) {
            let ours = weights.factor(schedule.snr(t as usize, SnrOf::Trained), kind);
            assert!((ours / theirs - 1.0).abs() <= 1e-6, "{name} at {t}: {ours} {theirs}");
        }
    }
}

#[test]
fn noise_of_every_kind() {
    let f = Fixture::open("train/ddpm.safetensors");
    let (x0, noise, xi) = (f.f32("x0"), f.f32("noise"), f.f32("offset.xi"));
    let (span, channels) = (x0.len() / 6, 4);
    for (name, adaptive) in [("offset.plain", None), ("offset.adaptive", Some(0.5))] {
        let offset = NoiseOffset { strength: 0.1, random_strength: true, adaptive };
        let mut ours = noise.clone();
        for (i, part) in ours.chunks_mut(span).enumerate() {
            let xi = &xi[i * channels..(i + 1) * channels];
            offset.apply(offset.strength(0.6), xi, &x0[i * span..(i + 1) * span], part);
        }
        close(name, &ours, &f.f32(name), 1e-6);
    }
    let ip = IpNoise { gamma: 0.1, random_strength: true };
    close("ip", &IpNoise::perturbed(ip.strength(0.6), &noise, &x0), &f.f32("ip"), 1e-6);

    let multires = Multires { iterations: 6, discount: 0.4 };
    let ratios: Vec<f64> = f.f32("pyramid.ratios").into_iter().map(|r| (r as f64 * 1e4).round() / 1e4).collect();
    let sizes = multires.sizes((24, 17), &ratios);
    let levels: Vec<PyramidLevel> = sizes
        .iter()
        .enumerate()
        .map(|(i, &(height, width))| {
            let values = f.f32(&format!("pyramid.level{i}"));
            assert_eq!(values.len(), channels * height * width);
            PyramidLevel { height, width, values }
        })
        .collect();
    assert!(!f.has(&format!("pyramid.level{}", levels.len())));
    let mut ours = f.f32("pyramid.base");
    multires.add((24, 17), &levels, &mut ours);
    Multires::normalise(&mut ours);
    close("pyramid", &ours, &f.f32("pyramid.out"), 1e-6);

    // Both: the offset first.
    let mut ours = f.f32("pyramid.base");
    let offset = NoiseOffset { strength: 0.1, random_strength: true, adaptive: None };
    let latents = vec![0.0; ours.len()];
    offset.apply(offset.strength(0.6), &xi[..channels], &latents, &mut ours);
    multires.add((24, 17), &levels, &mut ours);
    Multires::normalise(&mut ours);
    close("both", &ours, &f.f32("both.out"), 1e-6);
}

#[test]
fn losses_and_gradients() {
    let f = Fixture::open("train/losses.safetensors");
    let schedule = NoiseSchedule::scaled_linear();
    let (prediction, target, prior, t) = (f.f32("prediction"), f.f32("target"), f.f32("prior"), f.i64("t"));
    let mask = area_resize(&f.f32("image_mask"), (29, 20), (8, 6)).unwrap();
    close("mask", &mask, &f.f32("mask"), 1e-6);
    let span = prediction.len() / t.len();
    let schedules = [
        ("constant", HuberSchedule::Constant),
        ("exponential", HuberSchedule::Exponential),
        ("snr", HuberSchedule::Snr),
    ];
    for kind in [LossType::L2, LossType::L1, LossType::Huber, LossType::SmoothL1] {
        for (name, huber) in schedules {
            if !kind.has_c() && name != "constant" {
                continue;
            }
            let key = format!("{}.{name}", kind.name());
            let scale = (huber != HuberSchedule::Snr).then_some(1.5);
            let huber = Huber { schedule: Some(huber), c: 0.1, scale };
            huber.check(false).unwrap();
            let (mut value, mut slope, mut grad, mut each) =
                (vec![0.0; prediction.len()], vec![0.0; span], vec![0.0; prediction.len()], vec![]);
            for (i, &t) in t.iter().enumerate() {
                let part = i * span..(i + 1) * span;
                let c = huber.c(t as f64, Some(schedule.alpha(t as usize) as f64)) as f32;
                let reference = f.f32(&format!("c.{name}"))[i];
                assert!((c / reference - 1.0).abs() < 1e-6, "{key}: c {c} {reference}");
                let (p, y) = (&prediction[part.clone()], &target[part.clone()]);
                elements(kind, c, p, y, &mut value[part.clone()], &mut slope);
                let reduce = Reduce { kind, c, mask: Some(&mask), element_weight: 1.0 };
                let scale = prior[i] / t_len(&prior);
                each.push(sample(&reduce, p, y, scale, Some(&mut grad[part])).unwrap() as f32);
            }
            close(&format!("{key} value"), &value, &f.f32(&format!("{key}.value")), 1e-6);
            close(&format!("{key} each"), &each, &f.f32(&format!("{key}.each")), 1e-6);
            close(&format!("{key} grad"), &grad, &f.f32(&format!("{key}.grad")), 1e-6);
        }
    }
}

fn t_len(x: &[f32]) -> f32 {
    x.len() as f32
}

#[test]
fn flow_timesteps_and_weights() {
    let f = Fixture::open("train/flow.safetensors");
    let (normal, uniform) = (f.f32("normal"), f.f32("uniform"));
    let at = |steps: &Timesteps, draws: &[f32]| -> Vec<f32> {
        draws.iter().map(|&d| steps.at(d as f64, 3.0, 1536).sigma as f32).collect()
    };
    for (name, sampling, shift, draws) in [
        ("sigmoid", Sampling::Sigmoid, None, &normal),
        ("shift", Sampling::Shift, Some(3.1), &normal),
        ("flux_shift", Sampling::FluxShift, None, &normal),
        ("nextdit_shift", Sampling::NextditShift, None, &uniform),
    ] {
        let sigmoid_scale = (sampling != Sampling::NextditShift).then_some(1.3);
        let steps = Timesteps { sampling, shift, sigmoid_scale, ..Default::default() };
        steps.check(false).unwrap();
        close(name, &at(&steps, draws), &f.f32(name), 1e-6);
    }
    for (name, scheme, draws) in [
        ("logit_normal", Scheme::LogitNormal { mean: 0.2, std: 1.1 }, &normal),
        ("mode", Scheme::Mode { scale: 1.29 }, &uniform),
        ("uniform", Scheme::Uniform, &uniform),
    ] {
        let density: Vec<f32> = draws.iter().map(|&d| scheme.density(d as f64) as f32).collect();
        close(name, &density, &f.f32(&format!("density.{name}")), 1e-6);
        let sigma = Timesteps { sampling: Sampling::Sigma, scheme: scheme.clone(), ..Default::default() };
        close(name, &at(&sigma, draws), &f.f32(&format!("sigma.{name}")), 1e-6);
        let discrete = Timesteps {
            sampling: Sampling::Discrete,
            scheme,
            shift: Some(2.5),
            min: Some(100),
            max: Some(900),
            ..Default::default()
        };
        close(name, &at(&discrete, draws), &f.f32(&format!("discrete.{name}")), 1e-6);
    }
    let table: Vec<f32> = Timesteps::default().table(3.0).into_iter().map(|s| s as f32).collect();
    close("table", &table, &f.f32("table"), 1e-6);
    for (name, scheme) in [("sigma_sqrt", Scheme::SigmaSqrt), ("cosmap", Scheme::Cosmap), ("uniform", Scheme::Uniform)]
    {
        let ours: Vec<f32> = f.f32("sigmas").iter().map(|&s| scheme.weight(s as f64) as f32).collect();
        let theirs = f.f32(&format!("weight.{name}"));
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours / theirs - 1.0).abs() <= 1e-6, "{name}: {ours} {theirs}");
        }
    }
}
