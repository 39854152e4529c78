//! The steps of each solver. `a = √ᾱ`, `s = √(1−ᾱ)`, `σ = s/a`.

use super::{Plan, Sampler};
use crate::ddpm::Prediction;

type Model<'a, E> = &'a mut dyn FnMut(&[f32], f32) -> Result<Vec<f32>, E>;

/// x0 and ε from the output at `x = a·x0 + s·ε`.
fn split(prediction: Prediction, (a, s): (f64, f64), x: f32, out: f32) -> (f64, f64) {
    let (x, out) = (x as f64, out as f64);
    match prediction {
        Prediction::Epsilon => ((x - s * out) / a, out),
        Prediction::V => (a * x - s * out, s * x + a * out),
    }
}

/// `x ← a'·x0 + s'·ε` (Song et al. 2021, equation 12 with η = 0).
pub fn ddim<E>(sampler: &Sampler, plan: &Plan, mut x: Vec<f32>, model: Model<E>) -> Result<Vec<f32>, E> {
    let level = |t: f64| {
        let alpha = sampler.schedule.alpha(t as usize) as f64;
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    };
    for (i, &t) in plan.timesteps.iter().enumerate() {
        let now = level(t);
        let (a, s) = plan.timesteps.get(i + 1).map_or((1.0, 0.0), |&t| level(t));
        let out = model(&x, t as f32)?;
        for (x, out) in x.iter_mut().zip(out) {
            let (mut x0, eps) = split(sampler.prediction, now, *x, out);
            if let Some(limit) = sampler.clip {
                x0 = x0.clamp(-limit as f64, limit as f64);
            }
            *x = (a * x0 + s * eps) as f32;
        }
    }
    Ok(x)
}

/// `x ← x + (σ_down − σ)·ε` in `x = x0 + σ·ε` (Karras et al. 2022, algorithm 1). With `noise` fresh noise lifts the level
/// from `σ_down` to the next one, `σ_up² = σ'²(σ²−σ'²)/σ²`.
pub fn euler<E>(
    prediction: Prediction,
    plan: &Plan,
    mut x: Vec<f32>,
    model: Model<E>,
    mut noise: Option<impl FnMut(usize) -> Vec<f32>>,
) -> Result<Vec<f32>, E> {
    x.iter_mut().for_each(|x| *x *= plan.start as f32);
    for (i, &t) in plan.timesteps.iter().enumerate() {
        let (sigma, next) = (plan.sigmas[i], plan.sigmas[i + 1]);
        let a = 1.0 / (1.0 + sigma * sigma).sqrt();
        let scaled: Vec<f32> = x.iter().map(|x| (*x as f64 * a) as f32).collect();
        let out = model(&scaled, t as f32)?;
        let (mut down, mut up) = (next, 0.0);
        if noise.is_some() {
            up = (next * next * (sigma * sigma - next * next) / (sigma * sigma)).max(0.0).sqrt();
            down = (next * next - up * up).max(0.0).sqrt();
        }
        for ((x, scaled), out) in x.iter_mut().zip(&scaled).zip(out) {
            let (_, eps) = split(prediction, (a, sigma * a), *scaled, out);
            *x = (*x as f64 + (down - sigma) * eps) as f32;
        }
        if let Some(noise) = &mut noise
            && up > 0.0
        {
            for (x, n) in x.iter_mut().zip(noise(i)) {
                *x += (n as f64 * up) as f32;
            }
        }
    }
    Ok(x)
}

/// Multistep data prediction (Lu et al. 2022, algorithm 2): `x ← (s'/s)·x − a'(e⁻ʰ − 1)·D` with `h = λ' − λ`, `λ = ln(a/s)` and
/// D extrapolated from the last two estimates of x0. The first and the last step are of first order.
pub fn dpmpp_2m<E>(prediction: Prediction, plan: &Plan, mut x: Vec<f32>, model: Model<E>) -> Result<Vec<f32>, E> {
    let level = |sigma: f64| {
        let a = 1.0 / (1.0 + sigma * sigma).sqrt();
        (a, sigma * a)
    };
    let n = plan.timesteps.len();
    let mut before: Option<(Vec<f64>, f64)> = None;
    for (i, &t) in plan.timesteps.iter().enumerate() {
        let (now, next) = (level(plan.sigmas[i]), level(plan.sigmas[i + 1]));
        // λ = −ln σ, infinite at the end, where only the estimate is left.
        let h = plan.sigmas[i].ln() - plan.sigmas[i + 1].ln();
        let out = model(&x, t as f32)?;
        let x0: Vec<f64> = x.iter().zip(out).map(|(x, out)| split(prediction, now, *x, out).0).collect();
        let gain = -next.0 * (-h).exp_m1();
        let second = before.as_ref().filter(|_| i + 1 < n);
        for (j, x) in x.iter_mut().enumerate() {
            let d = match second {
                Some((old, h_before)) => x0[j] + 0.5 * (h / h_before) * (x0[j] - old[j]),
                None => x0[j],
            };
            *x = ((next.1 / now.1) * *x as f64 + gain * d) as f32;
        }
        before = Some((x0, h));
    }
    Ok(x)
}
