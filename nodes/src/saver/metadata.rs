//! Metadata of saved adapters: the `ss_*` keys other trainers write, and modelspec.

use std::collections::BTreeMap;

use pipe_core::run::Position;
use pipe_core::settings::Settings;
use pipe_data::metadata::iso_date;
use serde_json::{Map, Value, json};

use crate::common::trainable::{Method, Trainable};
use crate::model::sd1::{Prediction, Sd1};
use crate::optimizer::adamw::Update;

/// Everything known when the run is built.
pub struct Facts {
    fixed: BTreeMap<String, String>,
}

fn option<T: ToString>(value: Option<T>) -> String {
    value.map_or("None".into(), |v| v.to_string())
}

/// Python's spelling of a number: whole floats keep their `.0`.
fn float(x: f64) -> String {
    if x.fract() == 0.0 && x.abs() < 1e15 { format!("{x:.1}") } else { x.to_string() }
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

impl Facts {
    /// Collects the keys that do not change during a run. Values are Python's spelling, as readers expect.
    pub fn new(settings: &Settings, trainable: &Trainable, update: &Update, model: &Sd1, position: Position) -> Self {
        let mut m: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |key: &str, value: String| {
            m.insert(key.to_string(), value);
        };
        let h = &update.hyper;
        let about = update.loss.source().about();
        put("ss_output_name", settings.name.clone());
        put("ss_learning_rate", h.learning_rate.to_string());
        put("ss_unet_lr", h.learning_rate.to_string());
        put("ss_text_encoder_lr", option(h.text_encoder_learning_rate));
        put(
            "ss_optimizer",
            format!("pipe.AdamW(weight_decay={},betas=({}, {}),eps={})", h.weight_decay, h.beta1, h.beta2, h.eps),
        );
        put("ss_max_grad_norm", float(h.max_grad_norm.unwrap_or(0.0)));
        put("ss_lr_scheduler", h.schedule.name(position.total_steps).into());
        put("ss_lr_warmup_steps", h.schedule.warmup(position.total_steps).to_string());
        put("ss_gradient_accumulation_steps", settings.train.accumulate.to_string());
        put("ss_gradient_checkpointing", python_bool(model.policy == pipe_networks::pass::Policy::Recompute).into());
        put("ss_max_train_steps", position.total_steps.to_string());
        put("ss_num_epochs", position.total_steps.div_ceil(position.steps_per_epoch.max(1)).to_string());
        put("ss_num_batches_per_epoch", update.loss.source().per_epoch().to_string());
        put("ss_num_train_images", about.images.to_string());
        put("ss_num_reg_images", "0".into());
        put("ss_seed", settings.seed.to_string());
        put("ss_mixed_precision", mixed(model).into());
        put("ss_v2", "False".into());
        put("ss_base_model_version", "sd_v1".into());
        put("ss_batch_size_per_device", about.batch_size.to_string());
        put("ss_total_batch_size", (about.batch_size * settings.train.accumulate).to_string());
        if about.resolution != (0, 0) {
            put("ss_resolution", format!("({}, {})", about.resolution.0, about.resolution.1));
            put("modelspec.resolution", format!("{}x{}", about.resolution.0, about.resolution.1));
        } else {
            put("modelspec.resolution", "512x512".into());
        }
        if let Method::Lora { rank, alpha, conv, dropouts, .. } = &*trainable.method {
            put("ss_network_module", "networks.lora".into());
            put("ss_network_dim", rank.to_string());
            put("ss_network_alpha", float(*alpha));
            put("ss_network_dropout", if dropouts[0] > 0.0 { dropouts[0].to_string() } else { "None".into() });
            let mut args = Map::new();
            if let Some((rank, alpha)) = conv {
                args.insert("conv_dim".into(), json!(rank.to_string()));
                args.insert("conv_alpha".into(), json!(float(*alpha)));
            }
            for (name, p) in [("rank_dropout", dropouts[1]), ("module_dropout", dropouts[2])] {
                if p > 0.0 {
                    args.insert(name.into(), json!(p.to_string()));
                }
            }
            put("ss_network_args", Value::Object(args).to_string());
        }
        for (key, value) in update.loss.metadata() {
            put(&key, value);
        }
        let folders: Map<String, Value> = about
            .folders
            .iter()
            .map(|(name, repeats, images)| (name.clone(), json!({"n_repeats": repeats, "img_count": images})))
            .collect();
        put("ss_dataset_dirs", Value::Object(folders).to_string());
        let tags: Map<String, Value> = about
            .tags
            .iter()
            .map(|(folder, tags)| {
                (folder.clone(), tags.iter().map(|(t, n)| (t.clone(), json!(n))).collect::<Map<_, _>>().into())
            })
            .collect();
        put("ss_tag_frequency", Value::Object(tags).to_string());
        let buckets: Map<String, Value> = about
            .buckets
            .iter()
            .enumerate()
            .map(|(i, ((w, h), n))| (i.to_string(), json!({"resolution": [w, h], "count": n})))
            .collect();
        put("ss_bucket_info", json!({ "buckets": buckets }).to_string());
        put("ss_training_started_at", seconds_now().to_string());
        put("modelspec.sai_model_spec", "1.0.1".into());
        put("modelspec.architecture", "stable-diffusion-v1/lora".into());
        put("modelspec.implementation", "diffusers".into());
        put("modelspec.title", settings.name.clone());
        put("modelspec.prediction_type", if model.prediction == Prediction::V { "v" } else { "epsilon" }.into());
        put("modelspec.implementation_version", concat!("pipe/", env!("CARGO_PKG_VERSION")).into());
        Facts { fixed: m }
    }

    /// The metadata of a file saved now.
    pub fn at(&self, position: Position) -> BTreeMap<String, String> {
        let mut m = self.fixed.clone();
        let now = seconds_now();
        m.insert("ss_training_finished_at".into(), now.to_string());
        m.insert("ss_steps".into(), position.step.to_string());
        m.insert("ss_epoch".into(), position.step.div_ceil(position.steps_per_epoch.max(1)).to_string());
        m.insert("modelspec.date".into(), iso_date(now));
        m
    }
}

fn mixed(model: &Sd1) -> &'static str {
    match model.engine.compute {
        pipe_ops::DType::F32 => "no",
        pipe_ops::DType::F16 => "fp16",
        pipe_ops::DType::BF16 => "bf16",
    }
}

fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use pipe_data::metadata::iso_date;

    #[test]
    fn dates() {
        assert_eq!(iso_date(0), "1970-01-01T00:00:00");
        assert_eq!(iso_date(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(iso_date(1_767_225_599), "2025-12-31T23:59:59");
    }
}
