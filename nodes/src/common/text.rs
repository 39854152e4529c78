//! Text encoders as values: captions in, hidden states and pooled vectors out.

use std::sync::Arc;

use pipe_core::node::Value;
use pipe_core::run::RunError;
use pipe_data::tokenizer::clip::LENGTH;
use pipe_data::tokenizer::gemma::lumina2_prompt;
use pipe_data::tokenizer::{ClipTokenizer, GemmaTokenizer, Origin, T5Tokenizer, TokenizerFolder, WeightedWindows};
use pipe_data::weights::Component;
use pipe_networks::clip::{EOS, Take};
use pipe_networks::pass::{Policy, Setting};
use pipe_networks::{Builder, Inputs, Keeping, Model, TextInput, TextNetwork, TextOut, Trainables, Weights};
use pipe_ops::Tensor;

use super::batch::TextAbout;
use super::engine::Engine;
use super::family;
use super::lazy::Lazy;
use super::storage::{self, StorageType};
use super::weights_source::Source;

/// How captions become token ids.
#[derive(Clone)]
pub enum Prompts {
    /// CLIP's byte pairs in 1 to 3 windows of 75 tokens.
    Clip {
        /// Windows.
        windows: usize,
        /// Padding: the end token for ViT-L, 0 for OpenCLIP's models.
        pad: u32,
        /// `(emphasis:1.2)` is read.
        weighted: bool,
        /// Padding is hidden from attention, here alone.
        masked: bool,
    },
    /// T5's pieces.
    T5 {
        /// The tokenizer.
        tokenizer: T5Tokenizer,
        /// Tokens, with padding.
        length: usize,
        /// Padding is hidden from attention, here and in the denoiser.
        masked: bool,
    },
    /// Gemma's pieces.
    Gemma {
        /// The tokenizer.
        tokenizer: GemmaTokenizer,
        /// Where it was found.
        origin: Origin,
        /// Tokens, with padding.
        length: usize,
        /// Put before captions, not before negative prompts.
        system_prompt: String,
    },
}

impl Prompts {
    /// Everything the ids depend on besides the caption.
    fn fingerprint(&self) -> String {
        match self {
            Prompts::Clip { windows, pad, weighted, masked } => {
                format!("clip {windows} {pad} {weighted}{}", if *masked { " masked" } else { "" })
            }
            Prompts::T5 { length, masked, .. } => format!("t5 {length} {masked}"),
            Prompts::Gemma { tokenizer, length, system_prompt, .. } => {
                format!("gemma {} {length} {system_prompt}", tokenizer.digest())
            }
        }
    }
    /// The tokenizer's folder beside a saved model.
    pub fn folder(&self) -> TokenizerFolder {
        match self {
            Prompts::Clip { pad, .. } => TokenizerFolder::Clip { pad: *pad },
            Prompts::T5 { length, .. } => TokenizerFolder::T5 { length: *length },
            Prompts::Gemma { origin, .. } => TokenizerFolder::Gemma(origin.clone()),
        }
    }
    /// Tokens of the joined output.
    pub fn tokens(&self) -> usize {
        match self {
            Prompts::Clip { windows, .. } => 75 * windows + 2,
            Prompts::T5 { length, .. } | Prompts::Gemma { length, .. } => *length,
        }
    }
    /// Whether the denoiser is told which tokens are padding.
    pub fn masks(&self) -> bool {
        matches!(self, Prompts::T5 { masked: true, .. } | Prompts::Gemma { .. })
    }

    /// Whether padding is hidden from attention, in the encoder or in the model.
    pub fn hides_padding(&self) -> bool {
        self.masks() || matches!(self, Prompts::Clip { masked: true, .. })
    }

    /// Most tokens of a caption, without those that every input has; nothing for CLIP, whose captions the check counts.
    pub fn room(&self) -> Option<usize> {
        match self {
            Prompts::Clip { .. } => None,
            Prompts::T5 { length, .. } | Prompts::Gemma { length, .. } => Some(length.saturating_sub(1)),
        }
    }

    /// Tokens of a caption, however many there are.
    pub fn tokens_of(&self, caption: &str) -> usize {
        match self {
            Prompts::Clip { .. } => ClipTokenizer::embedded().tokens(caption).len(),
            Prompts::T5 { tokenizer, .. } => tokenizer.tokens(caption).len(),
            Prompts::Gemma { tokenizer, system_prompt, .. } if system_prompt.is_empty() => {
                tokenizer.tokens(caption).len()
            }
            Prompts::Gemma { tokenizer, system_prompt, .. } => {
                tokenizer.tokens(&lumina2_prompt(system_prompt, caption)).len()
            }
        }
    }

    /// Token ids of captions. Negative prompts get no system prompt.
    pub fn encode(&self, captions: &[String], negative: bool) -> Result<TextInput, RunError> {
        match self {
            Prompts::Clip { windows, pad, weighted: false, masked } => {
                let tokenizer = ClipTokenizer::embedded();
                let ids: Vec<Vec<u32>> = captions
                    .iter()
                    .flat_map(|c| tokenizer.encode_windows(c, *windows, *pad))
                    .map(|w| w.to_vec())
                    .collect();
                let mask = if *masked { ids.iter().map(|window| until_end(window)).collect() } else { Vec::new() };
                Ok(TextInput { windows: *windows, mask, ..TextInput::of_windows(ids) })
            }
            Prompts::Clip { windows, pad, weighted: true, .. } => {
                let tokenizer = ClipTokenizer::embedded();
                let mut input = TextInput { windows: *windows, ..Default::default() };
                for caption in captions {
                    // The check reads every caption. What shuffled tags make of brackets is no reason to end a run: then
                    // they are text.
                    let found = tokenizer.encode_weighted(caption, *windows, *pad).unwrap_or_else(|_| {
                        let ids = tokenizer.encode_windows(caption, *windows, *pad);
                        WeightedWindows { weights: vec![[1.0; LENGTH]; ids.len()], ids }
                    });
                    input.ids.extend(found.ids.iter().map(|w| w.to_vec()));
                    input.weights.push(joined(&found.weights));
                }
                Ok(input)
            }
            Prompts::T5 { tokenizer, length, masked } => {
                let mut input = TextInput { windows: 1, ..Default::default() };
                for caption in captions {
                    let tokens = tokenizer.encode(caption, *length);
                    input.ids.push(tokens.ids);
                    if *masked {
                        input.mask.push(tokens.mask);
                    }
                }
                Ok(input)
            }
            Prompts::Gemma { tokenizer, length, system_prompt, .. } => {
                let mut input = TextInput { windows: 1, ..Default::default() };
                for caption in captions {
                    let text = if negative || system_prompt.is_empty() {
                        caption.clone()
                    } else {
                        lumina2_prompt(system_prompt, caption)
                    };
                    let tokens = tokenizer.encode(&text, *length);
                    input.ids.push(tokens.ids);
                    input.mask.push(tokens.mask);
                }
                Ok(input)
            }
        }
    }
}

/// A text encoder on an edge.
pub struct TextEncoder {
    /// Which part of a model it is.
    pub component: Component,
    /// Sizes.
    pub network: TextNetwork,
    /// Which of CLIP's states are taken.
    pub take: Take,
    /// How captions become ids.
    pub prompts: Prompts,
    /// Where the weights come from.
    pub source: Source,
    /// Names the weights' content, the states taken and the tokenization.
    pub fingerprint: String,
    /// How the weights are kept.
    pub keeping: Keeping,
    /// Weights, loaded on demand.
    pub weights: Lazy<Weights>,
    /// Device.
    pub engine: Engine,
    model: Model,
    out: TextOut,
}

impl Value for TextEncoder {
    fn unload(&self) {
        self.weights.unload();
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Outputs for some captions.
pub struct Encoded {
    /// Hidden states `[B, S, D]`.
    pub hidden: Tensor,
    /// Pooled vectors `[B, P]`.
    pub pooled: Option<Tensor>,
    /// `[B][S]`, where the denoiser is told which tokens are padding.
    pub mask: Option<Vec<Vec<f32>>>,
}

impl TextEncoder {
    /// A text encoder whose weights load at first use.
    pub fn new(
        component: Component,
        network: TextNetwork,
        take: Take,
        prompts: Prompts,
        (source, storage): (Source, Option<StorageType>),
        engine: Engine,
    ) -> Result<Arc<Self>, RunError> {
        let content = source.fingerprint(component)?;
        let sizes = serde_json::to_string(&network).unwrap_or_default();
        // Rounded weights encode otherwise.
        let rounded = storage.map(|storage| format!(" {}", storage.name())).unwrap_or_default();
        let fingerprint = format!("{content} {take:?} {} {sizes}{rounded}", prompts.fingerprint());
        let keeping = storage::keeping(storage);
        let (load, kept, load_engine, shapes) = (source.clone(), keeping.clone(), engine.clone(), network.shapes());
        let weights = Lazy::new(move || load.load(component, &shapes, &load_engine.cx(), load_engine.compute, &kept));
        let mut b = Builder::new();
        let out = network.build(&mut b, family::part(component), take);
        let model = b.finish();
        Ok(Arc::new(TextEncoder {
            component,
            network,
            take,
            prompts,
            source,
            fingerprint,
            keeping,
            weights,
            engine,
            model,
            out,
        }))
    }

    /// What saved files say of it.
    pub fn about(&self) -> TextAbout {
        let clip = matches!(self.prompts, Prompts::Clip { .. });
        let skip = self.take.clip_skip as u64;
        let tokens = self.prompts.tokens() as u64;
        TextAbout {
            component: self.component,
            // Families with several encoders read one layer always.
            clip_skip: (self.component == Component::TextEncoder && self.take.final_norm && skip > 1).then_some(skip),
            long_tokens: (clip && tokens > 77).then(|| tokens - 2),
            masked: self.prompts.hides_padding(),
        }
    }

    /// Name of its part in models and trainables.
    pub fn part(&self) -> &'static str {
        family::part(self.component)
    }

    /// Outputs for captions, with what learns if given.
    pub fn encode(&self, captions: &[String], negative: bool, train: Option<&Trainables>) -> Result<Encoded, RunError> {
        let weights = self.weights.get()?;
        self.encode_with(&weights, captions, negative, train)
    }

    /// As [`TextEncoder::encode`] with given weights.
    pub fn encode_with(
        &self,
        weights: &Weights,
        captions: &[String],
        negative: bool,
        train: Option<&Trainables>,
    ) -> Result<Encoded, RunError> {
        let tokens = self.prompts.encode(captions, negative)?;
        let mask = self.prompts.masks().then(|| mask_rows(&tokens));
        let inputs = Inputs { text: [(self.part().to_string(), tokens)].into(), ..Default::default() };
        let setting =
            Setting { model: &self.model, weights: vec![weights], train, inputs: &inputs, policy: Policy::Keep };
        let wanted: Vec<usize> = std::iter::once(self.out.hidden).chain(self.out.pooled).collect();
        let pass = setting.forward(&self.engine.cx(), Vec::new(), &wanted, false);
        let pooled = self.out.pooled.map(|slot| pass.output(slot).clone());
        Ok(Encoded { hidden: pass.output(self.out.hidden).clone(), pooled, mask })
    }
}

/// 1 up to the first end token of a window, 0 for the padding behind it.
fn until_end(window: &[u32]) -> Vec<u8> {
    let end = window.iter().position(|id| *id == EOS).unwrap_or(window.len());
    (0..window.len()).map(|at| u8::from(at <= end)).collect()
}

/// Weights of the joined output: the first window without its end, the inner tokens of the others, one end.
fn joined(windows: &[[f32; 77]]) -> Vec<f32> {
    let mut out = Vec::with_capacity(75 * windows.len() + 2);
    for (i, w) in windows.iter().enumerate() {
        out.extend_from_slice(&w[usize::from(i > 0)..76]);
    }
    out.extend(windows.last().map(|w| w[76]));
    out
}

/// 1 for real tokens, 0 for padding, sample by sample.
pub fn mask_rows(tokens: &TextInput) -> Vec<Vec<f32>> {
    tokens.mask.iter().map(|row| row.iter().map(|&m| m as f32).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_that_cannot_be_read_are_text() {
        let prompts = |weighted| Prompts::Clip { windows: 1, pad: EOS, weighted, masked: false };
        let captions = ["smile:0), (cat".to_string(), "(cat, smile:0)".to_string(), "(cat:1.2)".to_string()];
        let (read, plain) =
            (prompts(true).encode(&captions, false).unwrap(), prompts(false).encode(&captions, false).unwrap());
        assert_eq!(read.ids[1], plain.ids[1]);
        assert!(read.weights[1].iter().all(|weight| *weight == 1.0));
        assert_eq!(read.weights.len(), 3);
        assert!(read.ids[2] != plain.ids[2] && read.weights[2].contains(&1.2));
        // What is cut off is counted.
        assert_eq!(prompts(false).room(), None);
        let t5 = Prompts::T5 { tokenizer: T5Tokenizer::embedded().clone(), length: 8, masked: false };
        assert_eq!(t5.room(), Some(7));
        assert!(t5.tokens_of("one two three four five six seven eight nine") > 7);
    }
}
