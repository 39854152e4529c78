//! `optimizer.schedule_free_sgd`: SGD with averaging in place of a schedule.

use pipe_core::node::About;
use pipe_train::optim::{OptimizerConfig, ScheduleFreeSgd};

use super::node::{Algorithm, OwnSchedule, averaging, on_host};

impl Algorithm for ScheduleFreeSgd {
    const ABOUT: About = About {
        type_name: "optimizer.schedule_free_sgd",
        summary: "SGD that averages its weights in place of a schedule.",
        details: on_host!(
            "Defazio et al. 2024, as schedulefree has it. Gradients are taken at y; the average x is what savers "
            "write, previews draw and validation measures, while training goes on from y. A schedule is refused. "
            "Its warm-up is `warmup_steps`."
        ),
        example: "sgd:\n  type: optimizer.schedule_free_sgd\n  loss: loss\n  learning_rate: 1.0\n  warmup_steps: 100",
    };

    const CLASS: &'static str = "schedulefree.sgd_schedulefree.SGDScheduleFree";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::ScheduleFreeSgd(self.clone())
    }

    fn own_schedule(&self) -> Option<OwnSchedule> {
        Some(averaging(self.warmup_steps))
    }
}
