//! Metadata of adapter and checkpoint files: what was trained, on what, and how.
//!
//! The keys are kohya's `ss_*` and the `modelspec.*` standard, their values Python's way of writing (`True`, `1e-05`),
//! because other programs parse them. A field left `None` is left out: nothing is claimed that was not so.

mod always;
mod base;
mod dataset;
mod modelspec;
mod python;
mod thumbnail;

use std::collections::BTreeMap;

pub use always::{ALWAYS, complete};
pub use base::BaseModel;
pub use dataset::{BucketCount, DatasetFolder, bucket_info, count_tags, dataset_dirs, tag_frequency};
pub use modelspec::{ModelSpec, iso_date};
pub use python::{PyText, py_float};
pub use thumbnail::{LARGEST_THUMBNAIL, data_url, image_type};

/// Declares the fields once: documentation, name, type and key.
macro_rules! adapter_metadata {
    ($($(#[$doc:meta])* $field:ident: $kind:ty => $key:literal,)*) => {
        /// What an adapter file says of its training; every field is written when it is set.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct AdapterMetadata {
            $($(#[$doc])* pub $field: Option<$kind>,)*
            /// Any other `ss_*` keys, such as those of one architecture.
            pub more: BTreeMap<String, String>,
        }

        impl AdapterMetadata {
            /// The keys and texts to store.
            pub fn to_map(&self) -> BTreeMap<String, String> {
                let mut map = self.more.clone();
                $(if let Some(value) = &self.$field {
                    map.insert($key.to_owned(), value.py_text());
                })*
                map
            }
        }
    };
}

adapter_metadata! {
    /// A random number for this run.
    session_id: u64 => "ss_session_id",
    /// Seconds since 1970.
    training_started_at: f64 => "ss_training_started_at",
    /// Seconds since 1970, at this save.
    training_finished_at: f64 => "ss_training_finished_at",
    /// Base name of the output files.
    output_name: String => "ss_output_name",
    /// Base learning rate.
    learning_rate: f64 => "ss_learning_rate",
    /// Learning rates of the text encoders that learn.
    text_encoder_lr: Vec<f64> => "ss_text_encoder_lr",
    /// Learning rate of the U-Net or transformer.
    unet_lr: f64 => "ss_unet_lr",
    /// Training images, repeats counted.
    num_train_images: u64 => "ss_num_train_images",
    /// Validation images.
    num_validation_images: u64 => "ss_num_validation_images",
    /// Regularization images.
    num_reg_images: u64 => "ss_num_reg_images",
    /// Batches of an epoch.
    num_batches_per_epoch: u64 => "ss_num_batches_per_epoch",
    /// Epochs planned.
    num_epochs: u64 => "ss_num_epochs",
    /// Images of a batch on one device.
    batch_size_per_device: u64 => "ss_batch_size_per_device",
    /// Images of a batch on all devices.
    total_batch_size: u64 => "ss_total_batch_size",
    /// Resolution, `(512, 512)`.
    resolution: (u64, u64) => "ss_resolution",
    /// Whether activations were recomputed.
    gradient_checkpointing: bool => "ss_gradient_checkpointing",
    /// Micro-steps of a step.
    gradient_accumulation_steps: u64 => "ss_gradient_accumulation_steps",
    /// Steps planned.
    max_train_steps: u64 => "ss_max_train_steps",
    /// Warm-up steps of the schedule.
    lr_warmup_steps: u64 => "ss_lr_warmup_steps",
    /// Learning-rate schedule.
    lr_scheduler: String => "ss_lr_scheduler",
    /// Network module whose format the file has.
    network_module: String => "ss_network_module",
    /// Rank.
    network_dim: u64 => "ss_network_dim",
    /// Alpha.
    network_alpha: f64 => "ss_network_alpha",
    /// Neuron dropout.
    network_dropout: f64 => "ss_network_dropout",
    /// Further arguments, a JSON object of texts.
    network_args: BTreeMap<String, String> => "ss_network_args",
    /// `no`, `fp16` or `bf16`.
    mixed_precision: String => "ss_mixed_precision",
    /// Whether everything was held in half precision.
    full_fp16: bool => "ss_full_fp16",
    /// Whether the base is SD2.
    v2: bool => "ss_v2",
    /// `sd_v1`, `sd_v2`, `sd_v2_v`, `sdxl_base_v1-0`, …
    base_model_version: String => "ss_base_model_version",
    /// Layer of the text encoder used, from the end.
    clip_skip: u64 => "ss_clip_skip",
    /// Longest caption in tokens.
    max_token_length: u64 => "ss_max_token_length",
    /// Whether latents were cached.
    cache_latents: bool => "ss_cache_latents",
    /// Seed.
    seed: u64 => "ss_seed",
    /// Noise offset.
    noise_offset: f64 => "ss_noise_offset",
    /// Iterations of multi-resolution noise.
    multires_noise_iterations: u64 => "ss_multires_noise_iterations",
    /// Discount of multi-resolution noise.
    multires_noise_discount: f64 => "ss_multires_noise_discount",
    /// Noise offset by the latents' mean.
    adaptive_noise_scale: f64 => "ss_adaptive_noise_scale",
    /// Whether the schedule ends in pure noise.
    zero_terminal_snr: bool => "ss_zero_terminal_snr",
    /// The user's words.
    training_comment: String => "ss_training_comment",
    /// Optimizer, `torch.optim.adamw.AdamW(weight_decay=0.01)`.
    optimizer: String => "ss_optimizer",
    /// Gradient norm clipped to.
    max_grad_norm: f64 => "ss_max_grad_norm",
    /// Probability of an empty caption.
    caption_dropout_rate: f64 => "ss_caption_dropout_rate",
    /// Epochs between captionless ones.
    caption_dropout_every_n_epochs: u64 => "ss_caption_dropout_every_n_epochs",
    /// Probability of a missing tag.
    caption_tag_dropout_rate: f64 => "ss_caption_tag_dropout_rate",
    /// Weight of regularization images.
    prior_loss_weight: f64 => "ss_prior_loss_weight",
    /// Min-SNR gamma.
    min_snr_gamma: f64 => "ss_min_snr_gamma",
    /// Largest norm of an adapter's product.
    scale_weight_norms: f64 => "ss_scale_weight_norms",
    /// Input perturbation.
    ip_noise_gamma: f64 => "ss_ip_noise_gamma",
    /// Whether the loss was weighted by 1/√SNR.
    debiased_estimation: bool => "ss_debiased_estimation",
    /// `l2`, `l1`, `huber`, `smooth_l1`.
    loss_type: String => "ss_loss_type",
    /// Schedule of the Huber constant.
    huber_schedule: String => "ss_huber_schedule",
    /// Huber constant.
    huber_c: f64 => "ss_huber_c",
    /// Scale of the Huber constant.
    huber_scale: f64 => "ss_huber_scale",
    /// Whether the base was held in 8-bit floats.
    fp8_base: bool => "ss_fp8_base",
    /// Steps done at this save.
    steps: u64 => "ss_steps",
    /// Epochs done at this save.
    epoch: u64 => "ss_epoch",
    /// File name of the base model.
    sd_model_name: String => "ss_sd_model_name",
    /// Short hash of the base model.
    sd_model_hash: String => "ss_sd_model_hash",
    /// SHA-256 of the base model.
    new_sd_model_hash: String => "ss_new_sd_model_hash",
    /// File name of the VAE.
    vae_name: String => "ss_vae_name",
    /// Short hash of the VAE.
    vae_hash: String => "ss_vae_hash",
    /// SHA-256 of the VAE.
    new_vae_hash: String => "ss_new_vae_hash",
    /// Whether images were mirrored at random.
    flip_aug: bool => "ss_flip_aug",
    /// Whether colours were changed at random.
    color_aug: bool => "ss_color_aug",
    /// Whether crops were random.
    random_crop: bool => "ss_random_crop",
    /// Whether tags were shuffled.
    shuffle_caption: bool => "ss_shuffle_caption",
    /// Tags that stayed in front.
    keep_tokens: u64 => "ss_keep_tokens",
    /// Whether there were buckets.
    enable_bucket: bool => "ss_enable_bucket",
    /// Whether images were never enlarged.
    bucket_no_upscale: bool => "ss_bucket_no_upscale",
    /// Smallest bucket side.
    min_bucket_reso: u64 => "ss_min_bucket_reso",
    /// Largest bucket side.
    max_bucket_reso: u64 => "ss_max_bucket_reso",
    /// JSON of [`tag_frequency`].
    tag_frequency: String => "ss_tag_frequency",
    /// JSON of [`dataset_dirs`].
    dataset_dirs: String => "ss_dataset_dirs",
    /// JSON of [`dataset_dirs`] for regularization images.
    reg_dataset_dirs: String => "ss_reg_dataset_dirs",
    /// JSON of [`bucket_info`].
    bucket_info: String => "ss_bucket_info",
    /// Whether text encoders of one architecture mask their padding.
    apply_t5_attn_mask: bool => "ss_apply_t5_attn_mask",
    /// The same of CLIP, for SD3.
    apply_lg_attn_mask: bool => "ss_apply_lg_attn_mask",
    /// Variant of FLUX: `flux`.
    model_type: String => "ss_model_type",
    /// Hash of the tensors' data.
    sshs_model_hash: String => "sshs_model_hash",
    /// Short hash of a window of the file.
    sshs_legacy_hash: String => "sshs_legacy_hash",
}

/// The keys that stay when a user wants no metadata.
pub const MINIMUM: [&str; 6] =
    ["ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_in_pythons_writing() {
        assert!(AdapterMetadata::default().to_map().is_empty());
        let metadata = AdapterMetadata {
            learning_rate: Some(1e-5),
            network_alpha: Some(16.0),
            network_dim: Some(32),
            v2: Some(false),
            resolution: Some((512, 768)),
            network_args: Some(BTreeMap::from([("conv_dim".to_owned(), "4".to_owned())])),
            more: BTreeMap::from([("ss_model_type".to_owned(), "flux".to_owned())]),
            ..Default::default()
        };
        let map = metadata.to_map();
        let text = |key: &str| map[key].as_str();
        assert_eq!(map.len(), 7);
        assert_eq!((text("ss_learning_rate"), text("ss_network_alpha")), ("1e-05", "16.0"));
        assert_eq!((text("ss_v2"), text("ss_resolution")), ("False", "(512, 768)"));
        assert_eq!(text("ss_network_args"), r#"{"conv_dim": "4"}"#);
        assert!(MINIMUM.iter().filter(|key| map.contains_key(**key)).count() == 4);
    }
}
