//! Logging and validation.

use super::Fate::*;
use super::*;
use crate::script::*;

const CONSOLE: &str = "messages go to the terminal and to the log in the run's folder";

pub(super) const OPTIONS: &[Opt] = &[
    text("logging_dir", ALL, Part("nodes.tensorboard.folder")),
    Opt::new("log_with", Type::Choice(&["tensorboard", "wandb", "all"]), "", ALL, Part("nodes.tensorboard")),
    text("log_prefix", ALL, Ignored("a run has a folder of its own")),
    text("log_tracker_name", ALL, Part("nodes.wandb.project")),
    text(
        "log_tracker_config",
        ALL,
        Refused("settings of Python trackers do not fit here; write them on the logger node"),
    ),
    text("wandb_run_name", ALL, Part("nodes.wandb.name")),
    text(
        "wandb_api_key",
        ALL,
        Refused("a secret has no place in a document; set the environment variable WANDB_API_KEY"),
    ),
    flag("log_config", ALL, Ignored("the resolved document is always kept in the run's folder")),
    Opt::new(
        "console_log_level",
        Type::Choice(&["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        "",
        ALL,
        Ignored(CONSOLE),
    ),
    text("console_log_file", ALL, Ignored(CONSOLE)),
    flag("console_log_simple", ALL, Ignored(CONSOLE)),
    float("validation_split", "0.0", NET, Part("nodes.validation.batch")),
    int("validation_seed", "", NET, Part("nodes.validation.batch")),
    int("validate_every_n_steps", "", NET, Part("nodes.validation.every.steps")),
    int("validate_every_n_epochs", "", NET, Part("nodes.validation.every.epochs")),
    int("max_validation_steps", "", NET, Part("nodes.validation.batches")),
];
