//! Sampling of flow models.

use crate::flow::{Direction, exponential_shift, flux_mu, shift};

/// How the noise levels of a flow model are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FlowShift {
    /// `f(u) = h·u/(1+(h−1)u)` of u from 1 to `f(0.001)`, then 0: SD3 with h = 3, Lumina-Image-2.0 with 6. (The shift
    /// acts twice at the low end, as in the reference.)
    Linear {
        /// h.
        shift: f64,
    },
    /// `e^μ/(e^μ + 1/u − 1)` of u from 1 to 0: FLUX.
    Exponential {
        /// Image tokens, from [`crate::flow::tokens`].
        tokens: usize,
    },
}

/// Noise levels of `steps` steps: one more than steps, from 1 to 0.
pub fn flow_sigmas(spacing: FlowShift, steps: usize) -> Vec<f64> {
    let n = steps.max(1);
    let part = |i: usize, of: usize| i as f64 / of.max(1) as f64;
    match spacing {
        FlowShift::Linear { shift: h } => {
            let low = shift(h, 0.001);
            let inner = (0..n).map(|i| shift(h, 1.0 + (low - 1.0) * part(i, n - 1)));
            inner.chain([0.0]).collect()
        }
        FlowShift::Exponential { tokens } => {
            let mu = flux_mu(tokens);
            (0..=n).map(|i| exponential_shift(mu, 1.0 - part(i, n))).collect()
        }
    }
}

/// `x ← x + (σ' − σ)·v` from unit noise; `model(x, σ)` gives the output in its own [`Direction`]. An error of it ends the run.
pub fn flow_euler<E>(
    direction: Direction,
    sigmas: &[f64],
    mut x: Vec<f32>,
    mut model: impl FnMut(&[f32], f64) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, E> {
    for pair in sigmas.windows(2) {
        let out = model(&x, pair[0])?;
        let step = match direction {
            Direction::ToNoise => pair[1] - pair[0],
            Direction::ToData => pair[0] - pair[1],
        } as f32;
        x.iter_mut().zip(out).for_each(|(x, v)| *x += step * v);
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_specification() {
        for (spacing, expected) in [
            (FlowShift::Linear { shift: 3.0 }, [1.0, 0.857692, 0.602151, 0.008929, 0.0]),
            (FlowShift::Linear { shift: 6.0 }, [1.0, 0.923711, 0.753333, 0.034783, 0.0]),
            (FlowShift::Exponential { tokens: 1024 }, [1.0, 0.849235, 0.652489, 0.384945, 0.0]),
            (FlowShift::Exponential { tokens: 4096 }, [1.0, 0.904531, 0.759511, 0.512844, 0.0]),
        ] {
            for (ours, spec) in flow_sigmas(spacing, 4).into_iter().zip(expected) {
                assert!((ours - spec).abs() < 6e-7, "{spacing:?}: {ours} {spec}");
            }
        }
        assert_eq!(flow_sigmas(FlowShift::Linear { shift: 3.0 }, 1), [1.0, 0.0]);
    }

    #[test]
    fn straight_paths_end_at_the_datum() {
        for direction in [Direction::ToNoise, Direction::ToData] {
            let sigmas = flow_sigmas(FlowShift::Exponential { tokens: 256 }, 7);
            let (noise, datum) = (1.5f32, -0.25f32);
            let velocity = if direction == Direction::ToNoise { noise - datum } else { datum - noise };
            let end = flow_euler(direction, &sigmas, vec![noise], |_, _| Ok::<_, ()>(vec![velocity]));
            assert!((end.unwrap()[0] - datum).abs() < 1e-6);
        }
    }
}
