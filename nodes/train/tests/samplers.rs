//! Preview samplers against diffusers (`tests/reference/make_losses.py`).

mod support;

use std::convert::Infallible;

use pipe_train::ddpm::{NoiseSchedule, Prediction};
use pipe_train::flow::Direction;
use pipe_train::solve::{FlowShift, Sampler, Solver, Spacing, flow_euler, flow_sigmas};
use support::{Fixture, close};

/// What stands for the model in the script.
fn network(x: &[f32], t: f32) -> Vec<f32> {
    x.iter().map(|x| 0.7 * x + 0.2 * (t / 1000.0) * x.sin()).collect()
}

#[test]
fn samplers_of_epsilon_and_v_models() {
    let f = Fixture::open("train/solvers.safetensors");
    let plain = NoiseSchedule::scaled_linear();
    let zero = plain.clone().zero_terminal_snr();
    let (x, fresh) = (f.f32("x"), f.f32("fresh"));
    let leading = Spacing::Leading { offset: 1 };
    let mut compared = 0;
    for (prediction, suffix) in [(Prediction::Epsilon, "epsilon"), (Prediction::V, "v_prediction")] {
        for n in [4, 10] {
            let new = |solver| Sampler::new(solver, prediction, plain.clone(), n);
            let rescaled = |solver| Sampler::new(solver, prediction, zero.clone(), n);
            let mut samplers = vec![
                ("ddim", new(Solver::Ddim)),
                ("ddim_clipped", Sampler { clip: Some(1.0), ..new(Solver::Ddim) }),
                ("euler", new(Solver::Euler)),
                ("euler_leading", Sampler { spacing: leading, ..new(Solver::Euler) }),
                ("euler_ancestral", new(Solver::EulerAncestral)),
                ("dpmpp_2m", new(Solver::Dpmpp2m)),
                ("dpmpp_2m_leading", Sampler { spacing: leading, ..new(Solver::Dpmpp2m) }),
            ];
            if prediction == Prediction::V {
                samplers.push(("ddim_zero", rescaled(Solver::Ddim)));
                samplers.push(("euler_zero", rescaled(Solver::Euler)));
                samplers.push(("dpmpp_2m_zero", rescaled(Solver::Dpmpp2m)));
            }
            for (name, sampler) in samplers {
                let Ok(ours) = sampler.sample(
                    x.clone(),
                    |x, t| Ok::<_, Infallible>(network(x, t)),
                    |i| fresh[i * x.len()..(i + 1) * x.len()].to_vec(),
                );
                let key = format!("{name}.{suffix}.{n}");
                // At σ = 4096 a f32 keeps only 2e-4 of a sample of size 1.
                let tolerance = if name == "euler_zero" { 3e-4 } else { 1e-5 };
                close(&key, &ours, &f.f32(&key), tolerance);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 34);
}

#[test]
fn samplers_of_flow_models() {
    let f = Fixture::open("train/solvers.safetensors");
    for n in [4, 9] {
        for (name, spacing) in
            [("sd3", FlowShift::Linear { shift: 3.0 }), ("flux", FlowShift::Exponential { tokens: 1536 })]
        {
            let sigmas = flow_sigmas(spacing, n);
            let rounded: Vec<f32> = sigmas.iter().map(|&s| s as f32).collect();
            close(name, &rounded, &f.f32(&format!("{name}.sigmas.{n}")), 1e-6);
            let Ok(ours) = flow_euler(Direction::ToNoise, &sigmas, f.f32("x"), |x, sigma| {
                Ok::<_, Infallible>(network(x, (1000.0 * sigma) as f32))
            });
            close(name, &ours, &f.f32(&format!("{name}.{n}")), 1e-6);
        }
    }
}
