//! What every optimizer promises besides its formula: exact state, honest errors, the same result however it is fed.

#[path = "support/gradients.rs"]
mod gradients;

use half::bf16;
use pipe_train::optim::{
    Adafactor, Context, Entry, Error, Group, Kind, Mode, Optimizer, OptimizerConfig, Report, Slot, TensorInfo, Values,
};
use pipe_train::rounding::Rounding;
use pipe_train::schedule::{Length, Schedule};

const TENSORS: [(&str, &[usize]); 4] =
    [("conv", &[3, 4, 3, 3]), ("down", &[6, 40]), ("norm", &[33]), ("wide", &[65, 70])];

/// Every optimizer, with settings that use all of its state.
fn all() -> Vec<OptimizerConfig> {
    [
        r#"{"type":"adamw"}"#,
        r#"{"type":"adam","weight_decay":0.1}"#,
        r#"{"type":"sgd"}"#,
        r#"{"type":"sgd","momentum":0.0}"#,
        r#"{"type":"lion","weight_decay":0.1}"#,
        r#"{"type":"adafactor"}"#,
        r#"{"type":"adafactor","learning_rate":0.01,"beta1":0.9}"#,
        r#"{"type":"came"}"#,
        r#"{"type":"prodigy","d0":0.001,"slice_p":3}"#,
        r#"{"type":"prodigy","d0":0.001,"betas":[0.0,0.99]}"#,
        r#"{"type":"dadapt_adam","d0":0.001}"#,
        r#"{"type":"dadapt_adam_preprint","d0":0.001}"#,
        r#"{"type":"dadapt_adan","d0":0.001}"#,
        r#"{"type":"dadapt_adan_ip","d0":0.001}"#,
        r#"{"type":"dadapt_adagrad","d0":0.001}"#,
        r#"{"type":"dadapt_lion","d0":0.001}"#,
        r#"{"type":"dadapt_sgd","d0":0.001}"#,
        r#"{"type":"schedule_free_adamw","warmup_steps":4}"#,
        r#"{"type":"schedule_free_radam"}"#,
        r#"{"type":"schedule_free_sgd"}"#,
        r#"{"type":"adamw_8bit"}"#,
        r#"{"type":"lion_8bit"}"#,
    ]
    .iter()
    .map(|text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")))
    .collect()
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn infos() -> Vec<TensorInfo> {
    TENSORS.iter().map(|(name, shape)| TensorInfo { name: name.to_string(), shape: shape.to_vec() }).collect()
}

fn weights() -> Vec<Vec<f32>> {
    TENSORS.iter().enumerate().map(|(i, (name, shape))| gradients::start(name, i as u64, count(shape))).collect()
}

fn gradient(tensor: usize, k: u64) -> Vec<f32> {
    gradients::gradient(tensor as u64, k, count(TENSORS[tensor].1))
}

/// A step over the tensors, the first two and the others in groups of their own.
fn step(
    optimizer: &mut dyn Optimizer,
    cx: &Context,
    k: u64,
    rates: [f64; 2],
    weights: &mut [Vec<f32>],
) -> Result<Report, Error> {
    let given: Vec<Vec<f32>> = (0..TENSORS.len()).map(|i| gradient(i, k)).collect();
    let mut slots: Vec<Slot> = weights
        .iter_mut()
        .zip(&given)
        .zip(TENSORS)
        .map(|((w, g), (name, shape))| Slot { name, shape, values: Values::F32(w), gradient: Some(g) })
        .collect();
    let rest = slots.split_off(2);
    let [first, second] = rates;
    let mut groups =
        [Group { name: "unet", rate: first, slots }, Group { name: "text_encoder", rate: second, slots: rest }];
    optimizer.step(cx, &mut groups)
}

#[test]
fn a_restored_state_continues_bit_for_bit() {
    for config in all() {
        let (mut one, mut weights) = (config.build().unwrap(), weights());
        let cx = Context { gradient_scale: 0.7, ..Context::default() };
        for k in 0..7 {
            step(&mut *one, &cx, k, [1e-2; 2], &mut weights).unwrap();
        }
        let saved = one.save();
        let mut copy = weights.clone();
        let mut other = config.build().unwrap();
        other.load(&saved, &infos()).unwrap();
        assert!(other.save() == saved, "{}", config.name());
        for k in 7..12 {
            let a = step(&mut *one, &cx, k, [1e-2; 2], &mut weights).unwrap();
            let b = step(&mut *other, &cx, k, [1e-2; 2], &mut copy).unwrap();
            assert_eq!(a, b, "{}", config.name());
        }
        assert!(weights == copy, "{}", config.name());
        assert!(one.save() == other.save(), "{}", config.name());
        // A fresh one does not, so the comparison means something.
        let mut fresh = config.build().unwrap();
        step(&mut *one, &cx, 12, [1e-2; 2], &mut weights).unwrap();
        step(&mut *fresh, &cx, 12, [1e-2; 2], &mut copy).unwrap();
        assert!(one.save() != fresh.save(), "{}", config.name());
    }
}

#[test]
fn planned_bytes_are_the_state() {
    for config in all() {
        let (mut optimizer, mut weights) = (config.build().unwrap(), weights());
        step(&mut *optimizer, &Context::default(), 0, [1e-2; 2], &mut weights).unwrap();
        let planned: u64 = TENSORS.iter().map(|(_, shape)| config.state_bytes(shape)).sum();
        let entries = optimizer.save();
        let stored = entries.iter().filter(|e| matches!(e.kind, Kind::F32 | Kind::U8));
        assert_eq!(stored.map(|e| e.bytes.len() as u64).sum::<u64>(), planned, "{}", config.name());
    }
    let bytes = |text: &str| serde_json::from_str::<OptimizerConfig>(text).unwrap().state_bytes(&[1024, 1024]);
    assert_eq!(bytes(r#"{"type":"adamw"}"#), 8 << 20);
    assert_eq!(bytes(r#"{"type":"adamw_8bit"}"#), (2 << 20) + 2 * 4 * 4096);
    assert_eq!(bytes(r#"{"type":"lion_8bit"}"#), (1 << 20) + 4 * 4096);
    assert_eq!(bytes(r#"{"type":"adafactor"}"#), 2 * 4 * 1024);
    assert_eq!(bytes(r#"{"type":"prodigy"}"#), 16 << 20);
}

#[test]
fn clipping_is_a_factor_of_the_gradient() {
    for config in all() {
        let (mut a, mut b) = (weights(), weights());
        let (mut one, mut two) = (config.build().unwrap(), config.build().unwrap());
        let cx = Context { gradient_scale: 0.25, ..Context::default() };
        for k in 0..4 {
            step(&mut *one, &cx, k, [1e-2; 2], &mut a).unwrap();
            // A power of two scales exactly, so the results are the same.
            let given: Vec<Vec<f32>> =
                (0..TENSORS.len()).map(|i| gradient(i, k).iter().map(|g| g * 0.25).collect()).collect();
            let mut slots: Vec<Slot> = b
                .iter_mut()
                .zip(&given)
                .zip(TENSORS)
                .map(|((w, g), (name, shape))| Slot { name, shape, values: Values::F32(w), gradient: Some(g) })
                .collect();
            let rest = slots.split_off(2);
            let mut groups =
                [Group { name: "unet", rate: 1e-2, slots }, Group { name: "text_encoder", rate: 1e-2, slots: rest }];
            two.step(&Context::default(), &mut groups).unwrap();
        }
        assert!(a == b, "{}", config.name());
    }
}

#[test]
fn streaming_optimizers_take_tensors_one_by_one() {
    let mut streaming = 0;
    for config in all() {
        let (mut together, mut whole) = (config.build().unwrap(), weights());
        assert_eq!(together.streams(), config.streams());
        if !config.streams() {
            continue;
        }
        streaming += 1;
        let (mut alone, mut parts) = (config.build().unwrap(), weights());
        for k in 0..3 {
            step(&mut *together, &Context::default(), k, [1e-2; 2], &mut whole).unwrap();
            for (i, (name, shape)) in TENSORS.into_iter().enumerate().rev() {
                let g = gradient(i, k);
                let slot = Slot { name, shape, values: Values::F32(&mut parts[i]), gradient: Some(&g) };
                alone.step(&Context::default(), &mut [Group { name: "all", rate: 1e-2, slots: vec![slot] }]).unwrap();
            }
        }
        assert!(whole == parts, "{}", config.name());
    }
    assert!(streaming >= 10);
}

#[test]
fn tensors_without_a_gradient_are_left_alone() {
    for config in all() {
        let mut optimizer = config.build().unwrap();
        let mut w = vec![0.5f32; 4];
        let slot = Slot { name: "w", shape: &[4], values: Values::F32(&mut w), gradient: None };
        optimizer.step(&Context::default(), &mut [Group { name: "all", rate: 1.0, slots: vec![slot] }]).unwrap();
        assert_eq!(w, [0.5; 4], "{}", config.name());
        assert!(optimizer.save().iter().all(|e| e.name.starts_with("global.")), "{}", config.name());
    }
}

#[test]
fn a_first_step_of_rate_zero_breaks_nothing() {
    for config in all() {
        let (mut optimizer, mut w) = (config.build().unwrap(), weights());
        for (k, rate) in [0.0, 0.0].into_iter().chain([1e-2; 8]).enumerate() {
            step(&mut *optimizer, &Context::default(), k as u64, [rate; 2], &mut w).unwrap();
        }
        assert!(w.iter().flatten().all(|w| w.is_finite()), "{}", config.name());
        assert!(w != weights(), "{}", config.name());
    }
}

#[test]
fn bf16_weights_move_with_stochastic_rounding() {
    // Updates of 1e-4 on weights of 1 are far below half a step of bf16, 2⁻⁸.
    let config: OptimizerConfig = serde_json::from_str(r#"{"type":"adamw","weight_decay":0.0}"#).unwrap();
    let run = |rounding| {
        let mut optimizer = config.build().unwrap();
        let mut w = vec![bf16::ONE; 20_000];
        let g = vec![1.0f32; w.len()];
        for _ in 0..20 {
            let slot = Slot { name: "w", shape: &[20_000], values: Values::Bf16(&mut w), gradient: Some(&g) };
            let cx = Context { rounding, ..Context::default() };
            optimizer.step(&cx, &mut [Group { name: "all", rate: 1e-4, slots: vec![slot] }]).unwrap();
        }
        w
    };
    assert!(run(Rounding::Nearest).iter().all(|w| *w == bf16::ONE));
    let moved = run(Rounding::Stochastic { seed: 1 });
    let mean = moved.iter().map(|w| w.to_f64()).sum::<f64>() / moved.len() as f64;
    assert!((mean - (1.0 - 20.0 * 1e-4)).abs() < 1e-4, "{mean}");
    assert_eq!(moved, run(Rounding::Stochastic { seed: 1 }));
    assert_ne!(moved, run(Rounding::Stochastic { seed: 2 }));
}

#[test]
fn averaged_weights_are_saved_and_training_goes_on_from_its_own() {
    for config in all() {
        let (mut optimizer, mut w) = (config.build().unwrap(), weights());
        for k in 0..10 {
            step(&mut *optimizer, &Context::default(), k, [1e-2; 2], &mut w).unwrap();
        }
        let y = w.clone();
        let mut slots = w.iter_mut().zip(TENSORS);
        let slots = slots
            .by_ref()
            .map(|(w, (name, shape))| Slot { name, shape, values: Values::F32(w), gradient: None })
            .collect();
        let mut groups = [Group { name: "all", rate: 1e-2, slots }];
        let x: Vec<Option<Vec<f32>>> =
            TENSORS.iter().zip(&y).map(|((name, _), y)| optimizer.averaged(name, y)).collect();
        optimizer.set_mode(Mode::Eval, &mut groups).unwrap();
        if !optimizer.averages() {
            assert!(x.iter().all(Option::is_none) && optimizer.mode() == Mode::Train);
            assert_eq!(w, y);
            continue;
        }
        let refused = optimizer.step(&Context::default(), &mut groups);
        assert_eq!(refused, Err(Error::Averaged));
        drop(groups);
        assert!(x.into_iter().map(Option::unwrap).collect::<Vec<_>>() == w);
        assert!(w != y);
        // The mode is part of the state.
        let mut other = config.build().unwrap();
        other.load(&optimizer.save(), &infos()).unwrap();
        assert_eq!(other.mode(), Mode::Eval);
        let slots = w.iter_mut().zip(TENSORS);
        let slots =
            slots.map(|(w, (name, shape))| Slot { name, shape, values: Values::F32(w), gradient: None }).collect();
        other.set_mode(Mode::Train, &mut [Group { name: "all", rate: 1e-2, slots }]).unwrap();
        let off = w.iter().flatten().zip(y.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{off}");
    }
}

#[test]
fn different_rates_are_refused_where_one_is_estimated() {
    let mut refusing = 0;
    for config in all() {
        let rates = [("unet", 1.0), ("frozen", 0.0), ("text_encoder", 0.5)];
        let (mut optimizer, mut w) = (config.build().unwrap(), weights());
        let stepped = step(&mut *optimizer, &Context::default(), 0, [1.0, 0.5], &mut w);
        let estimates = config.name().starts_with("DAdapt") || config.name() == "Prodigy";
        assert_eq!(stepped.is_err(), estimates, "{}", config.name());
        if estimates {
            refusing += 1;
            let error = config.check_rates(&rates).unwrap_err();
            assert!(error.reason.contains("unet") && error.reason.contains("text_encoder"), "{error}");
            assert_eq!(w, weights());
            config.check_rates(&rates[..2]).unwrap();
        } else if config.learning_rate().is_some() {
            config.check_rates(&rates).unwrap();
        }
    }
    assert_eq!(refusing, 9);
}

#[test]
fn adafactors_own_rate_refuses_others() {
    let own = Adafactor::default();
    let config = OptimizerConfig::Adafactor(own.clone());
    assert!(config.check_rates(&[("unet", 1e-4)]).is_err());
    let warm = Schedule::Constant { warmup: Some(Length::steps(10)) };
    assert_eq!(config.check_schedule(&warm).unwrap_err().field, "schedule");
    assert!(config.check_schedule(&Schedule::default()).is_ok());
    for (wrong, field) in [
        (Adafactor { learning_rate: Some(1e-3), relative_step: Some(true), ..own.clone() }, "relative_step"),
        (Adafactor { relative_step: Some(false), ..own.clone() }, "learning_rate"),
        (Adafactor { learning_rate: Some(1e-3), warmup_init: true, ..own.clone() }, "warmup_init"),
    ] {
        assert_eq!(OptimizerConfig::Adafactor(wrong).check().unwrap_err().field, field);
    }
    let given = OptimizerConfig::Adafactor(Adafactor { learning_rate: Some(1e-3), ..own });
    assert!(given.check().is_ok() && given.check_rates(&[("unet", 1e-4), ("text", 1e-5)]).is_ok());
    let free: OptimizerConfig = serde_json::from_str(r#"{"type":"schedule_free_adamw"}"#).unwrap();
    assert!(free.check_schedule(&warm).is_err() && free.check_schedule(&Schedule::default()).is_ok());
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, field) in [
        (r#"{"type":"adamw","betas":[0.9,1.0]}"#, "betas[1]"),
        (r#"{"type":"adamw","eps":0.0}"#, "eps"),
        (r#"{"type":"sgd","momentum":0.0,"nesterov":true}"#, "nesterov"),
        (r#"{"type":"lion","learning_rate":-1e-9}"#, "learning_rate"),
        (
            r#"{"type":"lion","learning_rate":0.0,"weight_decay":0.1,"decoupled_weight_decay":true}"#,
            "decoupled_weight_decay",
        ),
        (r#"{"type":"prodigy","decouple":false}"#, "decouple"),
        (r#"{"type":"dadapt_adam","growth_rate":1.0}"#, "growth_rate"),
        (r#"{"type":"schedule_free_radam","betas":[0.9,0.5]}"#, "betas[1]"),
        (r#"{"type":"schedule_free_sgd","weight_lr_power":1.0}"#, "weight_lr_power"),
        (r#"{"type":"lion","decoupled_weight_decay":true}"#, "decoupled_weight_decay"),
        (r#"{"type":"prodigy","slice_p":0}"#, "slice_p"),
        (r#"{"type":"prodigy","growth_rate":0.5}"#, "growth_rate"),
        (r#"{"type":"dadapt_adam","d0":0.0}"#, "d0"),
        (r#"{"type":"schedule_free_adamw","betas":[0.0,0.9]}"#, "betas[0]"),
        (r#"{"type":"schedule_free_sgd","warmup_steps":0}"#, "warmup_steps"),
        (r#"{"type":"adamw_8bit","weight_decay":-0.1}"#, "weight_decay"),
    ] {
        let config: OptimizerConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.check().unwrap_err().field, field, "{text}");
        assert!(config.build().is_err());
    }
    for config in all() {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<OptimizerConfig>(&text).unwrap(), config);
    }
}

/// A step of tensors of the same name, weights of 1.
fn feed(optimizer: &mut dyn Optimizer, rate: f64, tensors: &[(&[usize], usize, usize)]) -> Result<Report, Error> {
    let mut held: Vec<(Vec<f32>, Vec<f32>)> = tensors.iter().map(|&(_, w, g)| (vec![1.0; w], vec![1.0; g])).collect();
    let slots = held.iter_mut().zip(tensors);
    let slots = slots.map(|((w, g), (shape, ..))| Slot { name: "w", shape, values: Values::F32(w), gradient: Some(g) });
    let slots = slots.collect();
    optimizer.step(&Context::default(), &mut [Group { name: "all", rate, slots }])
}

#[test]
fn wrong_sizes_and_names_are_errors() {
    let mut optimizer = all()[0].build().unwrap();
    let refused = |result| matches!(result, Err(Error::Tensor { .. }));
    assert!(refused(feed(&mut *optimizer, 1.0, &[(&[5], 6, 5)])));
    assert!(refused(feed(&mut *optimizer, 1.0, &[(&[2, 3], 6, 5)])));
    assert!(refused(feed(&mut *optimizer, 1.0, &[(&[6], 6, 6), (&[6], 6, 6)])));
    for rate in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(matches!(feed(&mut *optimizer, rate, &[(&[6], 6, 6)]), Err(Error::Invalid(_))));
    }
    feed(&mut *optimizer, 1.0, &[(&[6], 6, 6)]).unwrap();
    assert!(refused(feed(&mut *optimizer, 1.0, &[(&[2, 3], 6, 6)])));
}

#[test]
fn state_that_does_not_fit_is_refused() {
    for config in all() {
        let (mut optimizer, mut w) = (config.build().unwrap(), weights());
        step(&mut *optimizer, &Context::default(), 0, [1e-2; 2], &mut w).unwrap();
        let good = optimizer.save();
        let broken = |change: &dyn Fn(&mut Vec<Entry>)| {
            let mut entries = good.clone();
            change(&mut entries);
            config.build().unwrap().load(&entries, &infos()).unwrap_err()
        };
        let last = good.len() - 1;
        let error = broken(&|e| e[last].bytes.truncate(3));
        assert!(matches!(&error, Error::State(text) if text.contains(&good[last].name)), "{error}");
        broken(&|e| e.push(Entry { name: "m.stranger".into(), kind: Kind::F32, bytes: vec![0; 4] }));
        broken(&|e| e[last].kind = Kind::F64);
        if config.state_bytes(&[8]) > 0 {
            broken(&|e| {
                e.remove(last);
            });
        }
        let fewer = &infos()[..3];
        assert!(config.build().unwrap().load(&good, fewer).is_err());
    }
}

#[test]
fn gradients_that_are_not_finite_spare_eight_bit_weights() {
    for text in [r#"{"type":"adamw_8bit"}"#, r#"{"type":"lion_8bit"}"#] {
        let config: OptimizerConfig = serde_json::from_str(text).unwrap();
        let mut optimizer = config.build().unwrap();
        let (mut w, mut g) = (vec![1.0f32; 5000], vec![0.5f32; 5000]);
        (g[7], g[4999]) = (f32::NAN, f32::INFINITY);
        for _ in 0..3 {
            let slot = Slot { name: "w", shape: &[50, 100], values: Values::F32(&mut w), gradient: Some(&g) };
            optimizer.step(&Context::default(), &mut [Group { name: "all", rate: 1e-2, slots: vec![slot] }]).unwrap();
        }
        assert_eq!((w[7], w[4999]), (1.0, 1.0));
        assert!(w.iter().all(|w| w.is_finite()) && w[8] < 1.0);
    }
}
