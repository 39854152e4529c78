//! Parts of a model on their way to a file: tensors in any layout, and their Diffusers configurations.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use pipe_core::run::RunError;
use pipe_data::tokenizer::TokenizerFolder;
use pipe_data::weights::keymap::{self, Form, Recipe, StoredTensor};
use pipe_data::weights::{Component, ComponentWeights, DType, Family, TensorOut};
use pipe_networks::clip::Activation;
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Network, Shapes, TextNetwork, Trainables, Weights};
use pipe_ops::Tensor;
use pipe_train::ddpm::Prediction;
use serde_json::{Value, json};

use crate::common::autoencoder::Autoencoder;
use crate::common::denoiser::Denoiser;
use crate::common::family;
use crate::common::text::TextEncoder;
use crate::common::weights_source::{Source, open_for_run};
use crate::common::write::tensor_out;

/// A component to write.
pub struct Part {
    /// Which.
    pub component: Component,
    /// Its `config.json`.
    pub config: Value,
    /// The tokenizer of a text encoder.
    tokenizer: Option<TokenizerFolder>,
    shapes: Shapes,
    /// Sharing their data with the model.
    values: HashMap<String, Tensor>,
    /// Where the other tensors are: those of a part that did not learn, and those that the network does not read and other
    /// programs do.
    rest: Option<ComponentWeights>,
}

impl Part {
    fn new(component: Component, shapes: Shapes, weights: &Weights, train: Option<&Trainables>, config: Value) -> Self {
        let part = family::part(component);
        let values: HashMap<String, Tensor> = shapes
            .iter()
            .filter_map(|(n, _)| {
                let own = train.and_then(|t| t.tensors.get(&Trainables::key(part, n)));
                own.or_else(|| weights.get(n)).map(|t| (n.clone(), t.clone()))
            })
            .collect();
        Part { component, config, tokenizer: None, shapes, values, rest: None }
    }

    /// The denoiser, with what learned.
    pub fn of_denoiser(model: &Denoiser, weights: &Weights, train: Option<&Trainables>) -> Self {
        Part::new(model.component(), model.network.shapes(), weights, train, network_config(&model.network))
    }
    /// A text encoder.
    pub fn of_text(text: &TextEncoder, weights: &Weights, train: Option<&Trainables>) -> Result<Self, RunError> {
        let mut part = Part::new(text.component, text.network.shapes(), weights, train, text_config(&text.network));
        part.tokenizer = Some(text.prompts.folder());
        if let Source::File { path, .. } = &text.source {
            let file = open_for_run(path, text.component)?;
            // Of Gemma nothing reads the last layer and its norm; a model without them would count as one layer shorter.
            if text.component == Component::Gemma {
                let known: HashSet<&str> = part.shapes.iter().map(|(name, _)| name.as_str()).collect();
                let unread = file.shapes().filter(|(name, _)| !known.contains(name));
                let unread: Vec<_> = unread.map(|(name, shape)| (name.to_owned(), shape)).collect();
                part.shapes.extend(unread);
            }
            part.rest = Some(file);
        } else if weights.rests() {
            let exact = text.source.exact(text.component)?;
            let kept = part.shapes.iter().filter(|(name, _)| !part.values.contains_key(name));
            let kept: Vec<_> = kept
                .map(|(name, shape)| Ok((name.clone(), Tensor::host(exact(name, shape)?, shape))))
                .collect::<Result<_, RunError>>()?;
            part.values.extend(kept);
        }
        Ok(part)
    }
    /// An autoencoder.
    pub fn of_vae(vae: &Autoencoder, weights: &Weights, train: Option<&Trainables>) -> Result<Self, RunError> {
        let config = vae_config(&vae.config, vae.scale.into(), vae.shift.into());
        let mut part = Part::new(Component::Vae, vae.config.shapes(), weights, train, config);
        part.rest = vae.source.path().map(|path| open_for_run(path, Component::Vae)).transpose()?;
        Ok(part)
    }

    /// Writes a text encoder's tokenizer into its folder of a pipeline, and gives its class. `name` is the encoder's
    /// folder.
    pub fn write_tokenizer(&self, pipeline: &Path, name: &str) -> Result<Option<&'static str>, RunError> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        let folder = pipeline.join(name.replace("text_encoder", "tokenizer"));
        let failed = |e: std::io::Error| RunError::new("P0903", format!("cannot write `{}`: {e}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        for (file, bytes) in tokenizer.files().map_err(|e| RunError::new("P0301", e.to_string()).at("text"))? {
            std::fs::write(folder.join(file), bytes).map_err(failed)?;
        }
        Ok(Some(tokenizer.class()))
    }

    /// The tensors of a layout, read when their turn comes.
    pub fn tensors(&self, family: Family, form: Form, dtype: DType) -> Result<Vec<TensorOut<'_>>, RunError> {
        let named = self.shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
        let stored =
            keymap::plan(self.component, family, form, named).map_err(|e| RunError::new("P0304", e.to_string()))?;
        Ok(stored.into_iter().map(|tensor| self.tensor(tensor, dtype)).collect())
    }

    fn values_of(&self, name: &str) -> Option<Vec<f32>> {
        match (self.values.get(name), &self.rest) {
            (Some(tensor), _) => Some(tensor.to_vec()),
            (None, Some(file)) => file.f32(name).ok(),
            (None, None) => None,
        }
    }

    fn tensor(&self, StoredTensor { name, recipe }: StoredTensor, dtype: DType) -> TensorOut<'_> {
        if let [only] = recipe.names()
            && recipe == Recipe::whole(only.clone(), recipe.shape.clone())
            && let Some(tensor) = self.values.get(only)
        {
            return tensor_out(name, dtype, recipe.shape, tensor);
        }
        let shape = recipe.shape.clone();
        TensorOut::stream(name, dtype, shape, move |sink| {
            let parts: Vec<Cow<[f32]>> =
                recipe.names().iter().filter_map(|n| Some(Cow::Owned(self.values_of(n)?))).collect();
            match recipe.values(parts) {
                Some(values) => sink(&values),
                None => Err(std::io::Error::other("a tensor it is made of is not there")),
            }
        })
    }
}

/// `config.json` of a denoiser.
pub(super) fn network_config(network: &Network) -> Value {
    match network {
        Network::Unet(c) => {
            let block = |with: bool, cross: &str, plain: &str| if with { cross.to_string() } else { plain.to_string() };
            let down: Vec<String> =
                c.depth.iter().map(|&d| block(d > 0, "CrossAttnDownBlock2D", "DownBlock2D")).collect();
            let up: Vec<String> =
                c.depth.iter().rev().map(|&d| block(d > 0, "CrossAttnUpBlock2D", "UpBlock2D")).collect();
            let depth: Vec<usize> = c.depth.iter().map(|&d| d.max(1)).collect();
            let mut config = json!({"_class_name": "UNet2DConditionModel", "in_channels": c.channels,
                "out_channels": c.channels, "block_out_channels": c.widths, "layers_per_block": c.layers,
                "cross_attention_dim": c.context, "attention_head_dim": c.heads, "norm_num_groups": c.groups,
                "down_block_types": down, "up_block_types": up, "mid_block_type": "UNetMidBlock2DCrossAttn",
                "act_fn": "silu", "norm_eps": 1e-5, "center_input_sample": false, "flip_sin_to_cos": true,
                "freq_shift": 0, "downsample_padding": 1, "mid_block_scale_factor": 1, "sample_size": 64,
                "use_linear_projection": c.linear_projection, "transformer_layers_per_block": depth});
            if let Some(sizes) = c.sizes {
                config["sample_size"] = json!(128);
                config["addition_embed_type"] = json!("text_time");
                config["addition_time_embed_dim"] = json!(sizes.embedding);
                config["projection_class_embeddings_input_dim"] = json!(sizes.pooled + 6 * sizes.embedding);
            }
            config
        }
        Network::Mmdit(c) => json!({"_class_name": "SD3Transformer2DModel", "attention_head_dim": c.width / c.heads,
            "caption_projection_dim": c.width, "in_channels": c.channels, "out_channels": c.channels,
            "joint_attention_dim": c.context, "num_attention_heads": c.heads, "num_layers": c.depth,
            "patch_size": c.patch, "pooled_projection_dim": c.pooled, "pos_embed_max_size": c.positions,
            "qk_norm": c.qk_norm.then_some("rms_norm"), "dual_attention_layers": (0..c.dual).collect::<Vec<_>>(),
            "sample_size": 128}),
        Network::Flux(c) => json!({"_class_name": "FluxTransformer2DModel", "attention_head_dim": c.width / c.heads,
            "axes_dims_rope": c.axes, "guidance_embeds": c.guidance, "in_channels": 4 * c.channels, "patch_size": 1,
            "joint_attention_dim": c.context, "num_attention_heads": c.heads, "num_layers": c.double,
            "num_single_layers": c.single, "pooled_projection_dim": c.pooled}),
        Network::Lumina2(c) => json!({"_class_name": "Lumina2Transformer2DModel", "axes_dim_rope": c.axes,
            "axes_lens": [300, 512, 512], "cap_feat_dim": c.context,
            "ffn_dim_multiplier": inner_width(c.ff, 4 * c.width).0, "hidden_size": c.width,
            "in_channels": c.channels, "multiple_of": inner_width(c.ff, 4 * c.width).1, "norm_eps": 1e-5,
            "num_attention_heads": c.heads, "num_kv_heads": c.kv_heads, "num_layers": c.layers,
            "num_refiner_layers": c.refiners, "patch_size": c.patch, "sample_size": 128, "scaling_factor": 1.0}),
        Network::LuminaNext(c) => json!({"_class_name": "LuminaNextDiT2DModel", "cross_attention_dim": c.context,
            "ffn_dim_multiplier": inner_width(c.ff, 8 * c.width / 3).0, "hidden_size": c.width,
            "in_channels": c.channels, "learn_sigma": c.out_channels == 2 * c.channels,
            "multiple_of": inner_width(c.ff, 8 * c.width / 3).1, "norm_eps": 1e-5,
            "num_attention_heads": c.heads, "num_kv_heads": c.kv_heads, "num_layers": c.layers, "patch_size": 2,
            "qk_norm": true, "sample_size": 128, "scaling_factor": 1.0}),
    }
}

/// `ffn_dim_multiplier` and `multiple_of` that make `base` the inner width `ff` of Lumina's feed-forward: Diffusers takes
/// `⌊multiplier·base⌋` up to the next multiple. The published models need no multiplier and multiples of 256.
fn inner_width(ff: usize, base: usize) -> (Option<f64>, usize) {
    if base.next_multiple_of(256) == ff {
        return (None, 256);
    }
    let multiple = 1usize << ff.trailing_zeros().min(8);
    // The middle of the range that is rounded up to `ff`.
    (Some((ff as f64 - 0.5 * (multiple - 1) as f64 + 0.25) / base.max(1) as f64), multiple)
}

/// `config.json` of an autoencoder.
pub(super) fn vae_config(c: &VaeConfig, scale: f64, shift: f64) -> Value {
    let levels = c.widths.len();
    json!({"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": c.latent,
        "block_out_channels": c.widths, "layers_per_block": c.layers, "norm_num_groups": c.groups, "act_fn": "silu",
        "down_block_types": vec!["DownEncoderBlock2D"; levels], "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "sample_size": 512, "scaling_factor": scale, "shift_factor": shift,
        "use_quant_conv": c.quant, "use_post_quant_conv": c.quant, "mid_block_add_attention": c.attention})
}

/// `config.json` of a text encoder.
pub(super) fn text_config(network: &TextNetwork) -> Value {
    match network {
        TextNetwork::Clip(c) => {
            let quick = c.activation == Activation::QuickGelu;
            let class = if c.projection.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
            json!({"architectures": [class], "model_type": "clip_text_model", "hidden_size": c.width,
                "intermediate_size": c.mlp, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
                "vocab_size": c.vocab, "max_position_embeddings": c.positions,
                "hidden_act": if quick { "quick_gelu" } else { "gelu" }, "layer_norm_eps": 1e-5,
                "projection_dim": c.projection.unwrap_or(c.width), "bos_token_id": 49406, "eos_token_id": c.eos,
                "pad_token_id": if quick { 49407 } else { 0 }, "attention_dropout": 0.0, "initializer_factor": 1.0,
                "initializer_range": 0.02})
        }
        TextNetwork::T5(c) => json!({"architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": c.width,
            "d_ff": c.ff, "d_kv": c.head_dim, "num_heads": c.heads, "num_layers": c.layers, "vocab_size": c.vocab,
            "relative_attention_num_buckets": c.buckets, "relative_attention_max_distance": 128,
            "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": true,
            "is_encoder_decoder": false, "layer_norm_epsilon": 1e-6, "dropout_rate": 0.0,
            "tie_word_embeddings": false, "pad_token_id": 0, "eos_token_id": 1}),
        TextNetwork::Gemma(c) => json!({
            "architectures": [if c.second { "Gemma2Model" } else { "GemmaModel" }],
            "model_type": if c.second { "gemma2" } else { "gemma" }, "hidden_size": c.width,
            "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim, "intermediate_size": c.mlp, "vocab_size": c.vocab, "rms_norm_eps": 1e-6,
            "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0, "max_position_embeddings": 8192,
            "query_pre_attn_scalar": c.head_dim, "attn_logit_softcapping": c.softcap,
            "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}),
    }
}

/// Class and configuration of the scheduler a pipeline of this model uses.
pub fn scheduler(model: &Denoiser) -> (&'static str, Value) {
    let guided = matches!(&model.network, Network::Flux(c) if c.guidance);
    scheduler_of(model.family, model.prediction, model.zero_terminal_snr, guided)
}

/// The same of a family; `guided` tells FLUX.1 dev from schnell.
pub(super) fn scheduler_of(family: Family, prediction: Prediction, zero: bool, guided: bool) -> (&'static str, Value) {
    match family::flow(family) {
        None => {
            let prediction = if prediction == Prediction::V { "v_prediction" } else { "epsilon" };
            let config = json!({"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
                "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "clip_sample": false,
                "set_alpha_to_one": false, "steps_offset": 1, "prediction_type": prediction,
                "rescale_betas_zero_snr": zero, "timestep_spacing": if zero { "trailing" } else { "leading" }});
            ("DDIMScheduler", config)
        }
        Some(flow) => {
            let config = json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000,
                "shift": if family == Family::Flux && !guided { 1.0 } else { flow.recommended().shift },
                "use_dynamic_shifting": guided, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
                "max_image_seq_len": 4096});
            ("FlowMatchEulerDiscreteScheduler", config)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Diffusers makes of the two numbers.
    fn inner(base: usize, (multiplier, multiple): (Option<f64>, usize)) -> usize {
        let inner = multiplier.map_or(base, |m| (m * base as f64) as usize);
        inner.next_multiple_of(multiple)
    }

    #[test]
    fn lumina_feed_forward_has_its_width_again() {
        assert_eq!(inner_width(9216, 4 * 2304), (None, 256));
        assert_eq!(inner_width(6144, 8 * 2304 / 3), (None, 256));
        for base in [96, 85, 6144, 9216] {
            for ff in (1..400).chain([1000, 4096, 6143, 9984]) {
                assert_eq!(inner(base, inner_width(ff, base)), ff, "{base}");
            }
        }
    }
}
