//! `optimizer.schedule_free_radam`: RAdam with averaging in place of a schedule.

use pipe_core::node::About;
use pipe_train::optim::{OptimizerConfig, ScheduleFreeRAdam};

use super::node::{Algorithm, OwnSchedule, on_host};

impl Algorithm for ScheduleFreeRAdam {
    const ABOUT: About = About {
        type_name: "optimizer.schedule_free_radam",
        summary: "RAdam that averages its weights in place of a schedule; needs no warm-up.",
        details: on_host!(
            "Defazio et al. 2024, as schedulefree has it. Gradients are taken at y; the average x is what savers "
            "write, previews draw and validation measures, while training goes on from y. A schedule is refused. "
            "The rectification of Liu et al. 2020 takes the place of a warm-up; nothing moves in the first steps."
        ),
        example: "radam:\n  type: optimizer.schedule_free_radam\n  loss: loss\n  learning_rate: 0.0025",
    };

    const CLASS: &'static str = "schedulefree.radam_schedulefree.RAdamScheduleFree";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::ScheduleFreeRAdam(self.clone())
    }

    fn own_schedule(&self) -> Option<OwnSchedule> {
        let settings = self.clone();
        let text = "times the group's: rectification, then constant; weights are averaged".to_string();
        Some(OwnSchedule { name: "constant", text, at: Box::new(move |t| settings.rectification(t)), warmup: None })
    }
}
