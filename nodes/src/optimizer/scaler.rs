//! The scale of the loss in f16: small gradients would be lost below 6e-8. It grows while all gradients are finite; at an
//! overflow it is halved and the update left out. As PyTorch's `GradScaler` (Micikevicius et al. 2018).

use pipe_core::run::RunError;
use pipe_ops::DType;

/// Clean steps after which the scale is doubled.
const INTERVAL: u64 = 2000;
const START: f64 = 65536.0;
/// Below it something else than the scale is wrong.
const LEAST: f64 = 1.0 / 65536.0;

/// The scale, and the steps since it last changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    now: f64,
    clean: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { now: START, clean: 0 }
    }
}

impl LossScale {
    /// Of a run that computes in this type, if it needs one.
    pub fn of(compute: DType) -> Option<LossScale> {
        #[cfg(test)]
        if let Some(now) = tests::FORCED.with(std::cell::Cell::get) {
            return Some(LossScale { now, clean: 0 });
        }
        (compute == DType::F16).then(LossScale::default)
    }

    /// What the loss is multiplied by in the step that comes.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// All gradients were finite.
    pub fn held(&mut self) {
        self.clean += 1;
        if self.clean == INTERVAL {
            *self = LossScale { now: 2.0 * self.now, clean: 0 };
        }
    }

    /// A gradient was not finite.
    ///
    /// # Errors
    /// P0901 where a smaller scale has not helped either.
    pub fn overflowed(&mut self) -> Result<(), RunError> {
        *self = LossScale { now: self.now / 2.0, clean: 0 };
        if self.now < LEAST {
            let message = "gradients in f16 are not finite, however small the loss is made";
            let help = "set `train.precision: bf16`, or lower the learning rate; the last good files are kept";
            return Err(RunError::new("P0901", message).help(help));
        }
        Ok(())
    }

    /// As text, for a saved state.
    pub fn saved(&self) -> String {
        format!("{:?} {}", self.now, self.clean)
    }

    /// From a saved state.
    pub fn read(text: &str) -> Option<LossScale> {
        let (now, clean) = text.split_once(' ')?;
        let now = now.parse::<f64>().ok().filter(|now| now.is_finite() && *now > 0.0)?;
        Some(LossScale { now, clean: clean.parse().ok()? })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::sync::Arc;

    use pipe_core::check::check_text;
    use pipe_core::document::Syntax;
    use pipe_core::execute::{RunOptions, run};
    use pipe_core::run::{Position, Progress, StepReport, StopFlag};
    use pipe_data::weights::WeightFile;

    use super::*;

    thread_local! {
        /// Scale the loss in f32 too, and begin with this: there a power of two changes nothing.
        pub static FORCED: Cell<Option<f64>> = const { Cell::new(None) };
    }

    #[test]
    fn it_grows_slowly_and_shrinks_at_once() {
        let mut scale = LossScale::default();
        (0..INTERVAL - 1).for_each(|_| scale.held());
        assert_eq!(scale.now(), 65536.0);
        scale.held();
        assert_eq!(scale.now(), 131072.0);
        scale.held();
        scale.overflowed().unwrap();
        assert_eq!(scale, LossScale { now: 65536.0, clean: 0 });
        (0..32).for_each(|_| scale.overflowed().unwrap());
        assert_eq!(scale.now(), LEAST);
        assert_eq!(scale.overflowed().unwrap_err().code, "P0901");
        assert_eq!((LossScale::of(DType::BF16), LossScale::of(DType::F32)), (None, None));
        assert!(LossScale::of(DType::F16).is_some());
        let odd = LossScale { now: 1.0 / 1024.0, clean: 77 };
        assert_eq!(LossScale::read(&odd.saved()), Some(odd));
        assert_eq!(["", "1.0", "x 1", "inf 0", "0.0 1"].map(LossScale::read), [None; 5]);
    }

    struct Stop(u64, StopFlag);

    impl Progress for Stop {
        fn tick(&self, _: &str, _: u64, _: u64) {}
        fn say(&self, _: &str) {}
        fn warn(&self, _: &str) {}
        fn step(&self, position: &Position, _: &StepReport, _: f64) {
            if position.step == self.0 {
                self.1.set();
            }
        }
    }

    /// Runs a LoRA of the fixture, and gives what learned with the last line of numbers.
    fn go(folder: &Path, out: &str, optimizer: &str, resume: bool, after: u64) -> (Vec<Vec<f32>>, serde_json::Value) {
        let fixtures = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures");
        let text = format!(
            "version: 1\nname: t\ntrain: {{ device: cpu, steps: 4, batch_size: 2, accumulate: 2 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.sd1, weights: {} }}\n  \
             learn: {{ type: adapter.lora, model: model, rank: 2 }}\n  \
             loss: {{ type: loss.diffusion, model: learn, batch: rows }}\n  \
             steps: {{ {optimizer}, loss: loss }}\n  metrics: {{ type: logger.metrics, update: steps }}\n",
            fixtures.join("lora_trajectory/replay.safetensors").display(),
            fixtures.join("diffusers_dir").display()
        );
        let registry = crate::registry();
        let checked = check_text(&registry, &text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
        assert!(checked.ok(), "{:?}", checked.diagnostics);
        let stop = StopFlag::default();
        let progress = Arc::new(Stop(after, stop.clone()));
        run(&registry, &checked, RunOptions { folder: folder.join(out), resume, progress, stop }).unwrap();
        let state = folder.join(out).join(format!("state/step-{:08}/state.safetensors", after.min(4)));
        let file = WeightFile::open(state).unwrap();
        let names = file.names().filter(|name| name.starts_with("param.") || name.starts_with("exp_avg"));
        let numbers = std::fs::read_to_string(folder.join(out).join("metrics.jsonl")).unwrap();
        let last = serde_json::from_str(numbers.lines().last().unwrap()).unwrap();
        (names.map(|name| file.f32(name).unwrap()).collect(), last)
    }

    #[test]
    fn a_scaled_run_is_the_same_and_continues_the_same() {
        for optimizer in ["type: optimizer.adamw, max_grad_norm: 0.01", "type: optimizer.prodigy"] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let (plain, numbers) = go(folder, "plain", optimizer, false, 9);
            assert!(numbers.get("loss_scale").is_none() && !plain.is_empty());
            FORCED.with(|start| start.set(Some(START)));
            let (scaled, of_scaled) = go(folder, "scaled", optimizer, false, 9);
            go(folder, "stopped", optimizer, false, 2);
            let (resumed, _) = go(folder, "stopped", optimizer, true, 9);
            FORCED.with(|start| start.set(None));
            assert!(plain == scaled && scaled == resumed, "{optimizer}");
            assert_eq!(of_scaled["loss_scale"], 65536.0);
            assert_eq!((&of_scaled["loss"], &of_scaled["grad_norm"]), (&numbers["loss"], &numbers["grad_norm"]));
        }
    }

    #[test]
    fn an_overflow_leaves_the_step_out() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // The square of such a norm has no number in f32: the weights stay, and the scale is halved.
        let optimizer = "type: optimizer.adamw, learning_rate: 1e-3, schedule: { type: constant }";
        FORCED.with(|start| start.set(Some(2f64.powi(100))));
        let (once, numbers) = go(folder, "over", optimizer, false, 1);
        let (twice, after) = go(folder, "more", optimizer, false, 2);
        FORCED.with(|start| start.set(None));
        let (moved, _) = go(folder, "fine", optimizer, false, 1);
        assert!(once == twice && once != moved);
        assert_eq!((&numbers["skipped"], &numbers["loss_scale"]), (&1.0.into(), &2f64.powi(100).into()));
        assert_eq!((&after["loss_scale"], after.get("grad_norm")), (&2f64.powi(99).into(), None));
    }
}
