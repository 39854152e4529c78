//! Saving, metadata, resuming.

use super::Fate::*;
use super::*;
use crate::script::*;

const UPLOAD: &str = "nothing is uploaded; use the Hugging Face command line on the finished file";
const STATES: &str = "train.save_state.keep_last.count";
const RESUME: &str = "a run here continues its own state exactly; the place cannot be set by hand";
const SAVED_AS: [&[&str]; 2] =
    [&["ckpt", "pt", "safetensors"], &["ckpt", "safetensors", "diffusers", "diffusers_safetensors"]];

pub(super) const OPTIONS: &[Opt] = &[
    text("output_dir", ALL, Part("output")),
    text("output_name", ALL, Part("name")),
    int("save_every_n_epochs", "", ALL, Part("nodes.save.every.epochs")),
    int("save_every_n_steps", "", ALL, Part("nodes.save.every.steps")),
    int("save_n_epoch_ratio", "", ALL, Part("nodes.save.every.epochs")),
    int("save_last_n_epochs", "", ALL, Part("nodes.save.keep_last.epoch_files")),
    int("save_last_n_steps", "", ALL, Part("nodes.save.keep_last.step_files")),
    flag("save_state", ALL, Part("train.save_state")),
    flag("save_state_on_train_end", ALL, Ignored("the training state is always written at the end")),
    int("save_last_n_epochs_state", "", ALL, Part(STATES)),
    int("save_last_n_steps_state", "", ALL, Part(STATES)),
    Opt::new("save_model_as", Type::Choice(SAVED_AS[0]), "safetensors", NET, Part("nodes.save.format")),
    Opt::new("save_model_as", Type::Choice(SAVED_AS[1]), "", FULL, Part("nodes.save.format")),
    flag("use_safetensors", FULL, Part("nodes.save.format")),
    Opt::new("save_precision", Type::Choice(&["float", "fp16", "bf16"]), "", ALL, Part("nodes.save.dtype")),
    flag("save_clip", SD3, Refused("trained encoders are saved with the model; sd-scripts ignores this option")),
    flag("save_t5xxl", SD3, Refused("trained encoders are saved with the model; sd-scripts ignores this option")),
    flag("mem_eff_save", FULL.and(FLUX.or(LUMINA)), Ignored("files are always written tensor by tensor")),
    flag("no_metadata", NET, Part("nodes.save.metadata")),
    text("training_comment", NET, set("nodes.save.metadata.comment")),
    text("metadata_title", ALL, set("nodes.save.metadata.title")),
    text("metadata_author", ALL, set("nodes.save.metadata.author")),
    text("metadata_description", ALL, set("nodes.save.metadata.description")),
    text("metadata_license", ALL, set("nodes.save.metadata.license")),
    text("metadata_tags", ALL, set("nodes.save.metadata.tags")),
    text("metadata_usage_hint", ALL, set("nodes.save.metadata.usage_hint")),
    text("metadata_thumbnail", ALL, set("nodes.save.metadata.thumbnail")),
    text("metadata_merged_from", ALL, set("nodes.save.metadata.merged_from")),
    text("metadata_trigger_phrase", ALL, set("nodes.save.metadata.trigger_phrase")),
    text("metadata_preprocessor", ALL, set("nodes.save.metadata.preprocessor")),
    text("metadata_is_negative_embedding", ALL, set("nodes.save.metadata.is_negative_embedding")),
    text("resume", ALL, Part("nodes.lora.weights")),
    flag("resume_from_huggingface", ALL, Refused("nothing is downloaded; fetch the file first")),
    int("initial_epoch", "", NET, Refused(RESUME)),
    int("initial_step", "", NET, Refused(RESUME)),
    flag("skip_until_initial_step", NET, Refused(RESUME)),
    text("huggingface_repo_id", ALL, Refused(UPLOAD)),
    text("huggingface_repo_type", ALL, Refused(UPLOAD)),
    text("huggingface_path_in_repo", ALL, Refused(UPLOAD)),
    text("huggingface_token", ALL, Refused(UPLOAD)),
    text("huggingface_repo_visibility", ALL, Refused(UPLOAD)),
    flag("save_state_to_huggingface", ALL, Refused(UPLOAD)),
    flag("async_upload", ALL, Refused(UPLOAD)),
];
