//! The learning-rate schedule.

use super::Fate::*;
use super::*;

const fn arg(name: &'static str, path: &'static str) -> Opt {
    Opt::new(name, Type::Text, "", ALL, Part(path)).at(Place::SchedulerArgs)
}

pub(super) const OPTIONS: &[Opt] = &[
    Opt::new("lr_scheduler", Type::Text, "constant", ALL, Part("nodes.optimizer.schedule.type")),
    Opt::new("lr_warmup_steps", Type::Length, "0", ALL, Part("nodes.optimizer.schedule.warmup")),
    Opt::new("lr_decay_steps", Type::Length, "0", ALL, Part("nodes.optimizer.schedule.decay")),
    int("lr_scheduler_num_cycles", "1", ALL, Part("nodes.optimizer.schedule.cycles")),
    float("lr_scheduler_power", "1", ALL, Part("nodes.optimizer.schedule.power")),
    int("lr_scheduler_timescale", "", ALL, Part("nodes.optimizer.schedule.timescale")),
    float("lr_scheduler_min_lr_ratio", "", ALL, Part("nodes.optimizer.schedule.min_ratio")),
    text("lr_scheduler_type", ALL, Refused("a scheduler written in Python cannot run here")),
    Opt::new("lr_scheduler_args", Type::Texts, "", ALL, Part("nodes.optimizer.schedule")),
    arg("step_rules", "nodes.optimizer.schedule.pieces"),
    arg("warmup_type", "nodes.optimizer.schedule.warmup_type"),
    arg("decay_type", "nodes.optimizer.schedule.decay_type"),
    arg("min_lr", "nodes.optimizer.schedule.min_ratio"),
];
