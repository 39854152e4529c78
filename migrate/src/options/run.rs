//! Length, batch, seed.

use super::Fate::*;
use super::*;

pub(super) const OPTIONS: &[Opt] = &[
    float("learning_rate", "2e-6", ALL, Part("nodes.optimizer.learning_rate")),
    int("max_train_steps", "1600", ALL, Part("train.steps")),
    int("max_train_epochs", "", ALL, Part("train.epochs")),
    int("train_batch_size", "1", ALL, Part("train.batch_size")),
    int("gradient_accumulation_steps", "1", ALL, set("train.accumulate"))
        .changed("a short last group is averaged over its own size; sd-scripts divides it by the full count"),
    int("seed", "", ALL, Part("seed")),
    float("max_grad_norm", "1.0", ALL, Part("nodes.optimizer.max_grad_norm")),
    text("config_file", ALL, Part("the whole document")),
    flag("output_config", ALL, Ignored("the document is the configuration")),
    text("dataset_config", ALL, Part("nodes.images")),
    text("dataset_class", ALL, Refused("a dataset written in Python cannot run here")),
    flag("debug_dataset", ALL, Ignored("`pipe check` reads the data, and previews show it")),
    int("max_data_loader_n_workers", "8", ALL, Ignored("data is read by threads, as many as there are cores")),
    flag("persistent_data_loader_workers", ALL, Ignored("there are no worker processes to keep")),
];
