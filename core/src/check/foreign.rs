//! Names of other trainers: what sd-scripts and diffusers call a field, and set-ups of theirs given as documents.
//!
//! For suggestions alone: no such name is understood. Whole set-ups are translated by `pipe migrate`.

use crate::diagnostic::{Diagnostic, Span};
use crate::document::Tree;
use crate::structure::Subject;

/// A name of another trainer and the field it stands for: `train.steps`, or a type and its field.
const NAMES: &[(&str, &str)] = &[
    ("pretrained_model_name_or_path", "model.sdxl.weights"),
    ("base_model", "model.sdxl.weights"),
    ("v_parameterization", "model.sdxl.prediction"),
    ("zero_terminal_snr", "model.sdxl.zero_terminal_snr"),
    ("gradient_checkpointing", "model.sdxl.checkpointing"),
    ("train_data_dir", "loader.images.path"),
    ("instance_data_dir", "loader.images.path"),
    ("image_dir", "loader.images.path"),
    ("num_repeats", "loader.images.repeats"),
    ("dataset_repeats", "loader.images.repeats"),
    ("enable_bucket", "loader.images.buckets"),
    ("min_bucket_reso", "loader.images.buckets"),
    ("max_bucket_reso", "loader.images.buckets"),
    ("bucket_reso_steps", "loader.images.buckets"),
    ("bucket_no_upscale", "loader.images.buckets"),
    ("caption_separator", "loader.images.shuffle_caption"),
    ("class_tokens", "loader.images.default_caption"),
    ("instance_prompt", "loader.images.default_caption"),
    ("random_flip", "loader.images.flip_aug"),
    ("vae_batch_size", "cacher.disk.vae_batch_size"),
    ("max_token_length", "encoder.clip_l.max_tokens"),
    ("network_dim", "adapter.lora.rank"),
    ("lora_rank", "adapter.lora.rank"),
    ("dim", "adapter.lora.rank"),
    ("r", "adapter.lora.rank"),
    ("network_alpha", "adapter.lora.alpha"),
    ("lora_alpha", "adapter.lora.alpha"),
    ("conv_dim", "adapter.lora.conv"),
    ("conv_alpha", "adapter.lora.conv"),
    ("network_dropout", "adapter.lora.dropout"),
    ("lora_dropout", "adapter.lora.dropout"),
    ("network_weights", "adapter.lora.weights"),
    ("lr", "optimizer.adamw.learning_rate"),
    ("unet_lr", "optimizer.adamw.learning_rate"),
    ("text_encoder_lr", "optimizer.adamw.text_encoder_learning_rate"),
    ("lr_scheduler", "optimizer.adamw.schedule"),
    ("lr_scheduler_num_cycles", "optimizer.adamw.schedule"),
    ("lr_warmup_steps", "optimizer.adamw.schedule"),
    ("warmup_steps", "optimizer.adamw.schedule"),
    ("optimizer_type", "optimizer.adamw.type"),
    ("use_8bit_adam", "optimizer.adamw_8bit.type"),
    ("grad_clip", "optimizer.adamw.max_grad_norm"),
    ("network_module", "adapter.lora.type"),
    ("snr_gamma", "loss.diffusion.min_snr_gamma"),
    ("multires_noise_iterations", "loss.diffusion.multires_noise"),
    ("multires_noise_discount", "loss.diffusion.multires_noise"),
    ("min_timestep", "loss.diffusion.timesteps"),
    ("max_timestep", "loss.diffusion.timesteps"),
    ("sample_prompts", "sampler.preview.prompts"),
    ("validation_prompt", "sampler.preview.prompts"),
    ("sample_every_n_steps", "sampler.preview.every"),
    ("sample_every_n_epochs", "sampler.preview.every"),
    ("sample_sampler", "sampler.preview.sampler"),
    ("cfg_scale", "sampler.preview.guidance_scale"),
    ("save_every_n_steps", "saver.adapter.every"),
    ("save_every_n_epochs", "saver.adapter.every"),
    ("checkpointing_steps", "saver.adapter.every"),
    ("save_last_n_epochs", "saver.adapter.keep_last"),
    ("save_last_n_steps", "saver.adapter.keep_last"),
    ("checkpoints_total_limit", "saver.adapter.keep_last"),
    ("save_precision", "saver.adapter.dtype"),
    ("save_model_as", "saver.checkpoint.format"),
    ("output_name", "name"),
    ("output_dir", "output"),
    ("train_batch_size", "train.batch_size"),
    ("gradient_accumulation_steps", "train.accumulate"),
    ("max_train_steps", "train.steps"),
    ("num_train_steps", "train.steps"),
    ("max_train_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("mixed_precision", "train.precision"),
    ("save_state", "train.save_state"),
];

/// Names that say whose set-up a file is beside those that have a field here.
const MARKS: [&str; 8] =
    ["datasets", "subsets", "general", "cache_latents", "xformers", "sdpa", "network_args", "optimizer_args"];

/// Every field that a name of another trainer points at.
pub fn targets() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().copied()
}

/// What a name of another trainer is called here.
pub(super) fn named(field: &str, subject: Subject, has: &dyn Fn(&str) -> bool) -> Option<String> {
    let (_, target) = NAMES.iter().find(|(name, _)| *name == field)?;
    let (owner, own) = target.rsplit_once('.').unwrap_or(("", target));
    let kind = |ty: &str| ty.split('.').next().map(str::to_owned);
    let here = match subject {
        Subject::Node(_, ty) => kind(ty) == kind(owner) && has(own),
        Subject::Document => has(own) && matches!(owner, "" | "train"),
    };
    Some(match owner {
        _ if here => format!("what other trainers call `{field}` is `{own}` here"),
        "" => format!("what other trainers call `{field}` is `{own}` at the top of the document"),
        "train" => format!("what other trainers call `{field}` is `{own}` in `train`"),
        ty if own == "type" => format!("what other trainers call `{field}` is the `type` of a node, such as `{ty}`"),
        ty => format!("what other trainers call `{field}` is `{own}` of a node such as `{ty}`"),
    })
}

/// A set-up of sd-scripts in place of a document.
pub(super) fn document(tree: &Tree) -> Option<Diagnostic> {
    let top = tree.as_map()?;
    if top.contains_key("nodes") || top.contains_key("version") {
        return None;
    }
    let inner = top.values().filter_map(|entry| match entry.value.as_seq() {
        Some(items) => items.first()?.as_map(),
        None => entry.value.as_map(),
    });
    let known = |name: &&str| MARKS.contains(name) || NAMES.iter().any(|(other, _)| other == name);
    let keys = top.keys().chain(inner.flat_map(|map| map.keys())).map(String::as_str);
    let mut found: Vec<&str> = keys.filter(known).collect();
    found.sort_unstable();
    found.dedup();
    let (first, second) = (found.first()?, found.get(1)?);
    let message = format!("this is a set-up of sd-scripts, not a document of `pipe`: it has `{first}` and `{second}`");
    let span = Span { end: tree.span.start, ..tree.span };
    let help = "`pipe migrate sd-scripts` translates such a set-up; `pipe init` writes a document to begin with";
    Some(Diagnostic::error("P0018", span, message).help(help))
}
