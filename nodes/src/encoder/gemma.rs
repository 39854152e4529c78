//! `encoder.gemma`: Gemma 1 and 2 as the text encoders of Lumina.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use pipe_data::tokenizer::{GemmaTokenizer, Origin, TokenizerKind, find_tokenizer};
use pipe_data::weights::{Component, ComponentWeights};
use pipe_networks::TextNetwork;
use pipe_networks::gemma::GemmaConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{self, Inferred, Length, rows_suffice};
use crate::common::errors;
use crate::common::family;
use crate::common::storage::StorageType;
use crate::common::text::Prompts;
use crate::common::weights_source::config_usize;

/// Fields of `encoder.gemma`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Checkpoint: Gemma alone (2 2B for Lumina-Image-2.0, 1 2B for Lumina-Next), an all-in-one file, or a Diffusers folder.
    #[schemars(extend("x-path" = "any"))]
    weights: String,
    /// `tokenizer.json` or `tokenizer.model` of Gemma. Default: found beside the weights, or inside them.
    #[serde(default)]
    #[schemars(extend("x-path" = "file"))]
    tokenizer: Option<String>,
    /// Tokens of a caption with padding; longer captions are cut. Default 256.
    #[serde(default = "default_tokens")]
    #[schemars(range(min = 8, max = 4096))]
    max_tokens: u64,
    /// Lumina-Image-2.0: put before every caption, with `<Prompt Start>` between; negative prompts go without. Default: none.
    #[serde(default)]
    system_prompt: String,
    /// Cap the attention logits as Gemma 2 was trained with. Image models are made and used without. Default false.
    #[serde(default)]
    attention_softcap: bool,
    /// Type that the weights are kept in; each is cast to the type that is computed in when it is used. `f8_e4m3` rounds
    /// them and leaves out embeddings, norms and biases. Default: the type that is computed in.
    #[serde(default)]
    storage: Option<StorageType>,
    /// What shapes cannot tell, for reduced models.
    #[serde(default)]
    config: Option<Hints>,
}

/// What shapes cannot tell.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Hints {
    /// Width of a head. Default: from `config.json`, else 256.
    #[serde(default)]
    #[schemars(range(min = 2, max = 1024))]
    head_dim: Option<u64>,
}

fn default_tokens() -> u64 {
    256
}

const COMPONENT: Component = Component::Gemma;
/// Gemma 2's cap.
const CAP: f32 = 50.0;

/// The node type.
pub struct Gemma;

impl Config {
    fn infer(&self, file: &ComponentWeights) -> Inferred {
        let own = self.config.as_ref().and_then(|c| c.head_dim).map(|n| n as usize);
        let head_dim = own.or(config_usize(file.config.as_ref(), "head_dim")?);
        let mut config = GemmaConfig::infer(file, head_dim).map_err(errors::sizes)?;
        config.softcap = self.attention_softcap.then_some(CAP);
        Ok(TextNetwork::Gemma(config))
    }
}

/// The token table has a row for every id.
fn rows(network: &TextNetwork, tokenizer: &GemmaTokenizer) -> Result<(), (&'static str, String)> {
    match network {
        TextNetwork::Gemma(c) => rows_suffice(c.vocab, tokenizer.vocabulary()),
        _ => Ok(()),
    }
}

impl Node for Gemma {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "encoder.gemma",
        summary: "Gemma 1 or 2 as the text encoder of Lumina-Next or Lumina-Image-2.0.",
        details: "Gemma Team 2024. Gives the stream before the last layer, without final norm; that layer is not loaded. The vocabulary \
                  is looked for beside the weights: `tokenizer/`, `tokenizer.json`, `tokenizer.model`, or a `spiece_model` tensor \
                  inside them. Nothing is downloaded.",
        example: "gemma:\n  type: encoder.gemma\n  weights: gemma_2_2b_fp16.safetensors",
    };

    fn inputs() -> Vec<Input> {
        Vec::new()
    }

    fn outputs() -> Vec<Output> {
        common::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        // `gemma-2b` is the first generation, `gemma-2-2b` the second.
        let first = config.weights.to_lowercase().contains("gemma-2b");
        let full = TextNetwork::Gemma(if first { GemmaConfig::gemma1_2b() } else { GemmaConfig::gemma2_2b() });
        let infer = |file: &_| config.infer(file);
        let Some((network, file)) = common::check_file(cx, &config.weights, COMPONENT, full, infer) else {
            return Facts::new();
        };
        if config.attention_softcap && matches!(&network, TextNetwork::Gemma(c) if !c.second) {
            let message = "`attention_softcap` has no effect: Gemma 1 has no cap";
            cx.error("P0402", "attention_softcap", message, None);
        }
        let given = config.tokenizer.as_ref().map(|t| cx.path(t));
        if file.is_some() {
            let weights = cx.path(&config.weights);
            let found = match &given {
                Some(path) => GemmaTokenizer::from_file(path),
                None => find_tokenizer(&weights, TokenizerKind::Gemma).and_then(|origin| GemmaTokenizer::open(&origin)),
            };
            let field = if given.is_some() { "tokenizer" } else { "weights" };
            if let (Ok(tokenizer), TextNetwork::Gemma(c)) = (&found, &network) {
                let ids = tokenizer.vocabulary();
                if let Err((code, why)) = rows_suffice(c.vocab, ids) {
                    cx.error(code, "weights", why, None);
                } else if ids < c.vocab - c.vocab / 10 {
                    let message = format!("the tokenizer has {ids} ids, the token table {} rows", c.vocab);
                    let help = "see that the tokenizer is the one that the text encoder was trained with";
                    cx.warn("P0401", field, message, Some(help.into()));
                }
            }
            if let Err(e) = found {
                let help =
                    "put Gemma's `tokenizer.json` or `tokenizer.model` beside the weights, or name it: `tokenizer: …`";
                cx.error("P0301", field, e.to_string(), Some(help.into()));
            }
        }
        let length =
            Length { prompted: !config.system_prompt.is_empty(), ..Length::of(config.max_tokens as usize, true) };
        common::facts(cx, Self::ABOUT.type_name, (COMPONENT, &network), family::take(false, 2), length, config.storage)
    }

    fn plan(_config: &Config, cx: &PlanCx) -> NodePlan {
        common::plan(cx)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let error = |e: pipe_data::tokenizer::TokenizerError| RunError::new("P0301", e.to_string()).at("tokenizer");
        let origin = match &config.tokenizer {
            Some(path) => Origin::File(cx.path(path)),
            None => find_tokenizer(cx.path(&config.weights), TokenizerKind::Gemma).map_err(error)?,
        };
        let tokenizer = GemmaTokenizer::open(&origin).map_err(error)?;
        let prompts = Prompts::Gemma {
            tokenizer: tokenizer.clone(),
            origin,
            length: config.max_tokens as usize,
            system_prompt: config.system_prompt.clone(),
        };
        let take = family::take(false, 2);
        let infer = |file: &_| {
            let network = config.infer(file)?;
            rows(&network, &tokenizer)?;
            Ok(network)
        };
        common::build_file(cx, (&config.weights, config.storage), COMPONENT, |_| take, prompts, infer)
    }
}
