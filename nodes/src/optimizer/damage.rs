//! Why the numbers of a first step are not finite: nothing was learned yet, so what was loaded is looked at.

use pipe_core::run::RunError;
use pipe_networks::Weights;

use crate::common::trainable::{Subject, Trainable};
use crate::common::weights_source::Source;

/// Blames the weights where they hold what is no number: then no rate is at fault.
pub fn blame(error: RunError, trainable: &Trainable) -> RunError {
    if error.code != "P0901" {
        return error;
    }
    let Some((source, name)) = damaged(trainable) else { return error };
    let Some(node) = source.node() else { return error };
    let message = format!("{}; the weights hold values that are no numbers, the first in `{name}`", error.message);
    let help = "get the file again, or one that was made in a type with a larger range";
    RunError { message, node: None, help: None, ..error }.of(node).at("weights").help(help)
}

/// The first tensor with values that are no numbers, and where it comes from.
fn damaged(trainable: &Trainable) -> Option<(&Source, String)> {
    let parts: Vec<(&str, &Source, &Weights)> = match &*trainable.subject {
        Subject::Denoiser { model, weights, texts } => {
            let texts = texts.iter().map(|text| (text.encoder.part(), &text.encoder.source, &*text.weights));
            std::iter::once((model.part(), &model.source, &**weights)).chain(texts).collect()
        }
        Subject::Autoencoder { vae, weights } => vec![("vae", &vae.source, &**weights)],
    };
    let finite = |values: Option<Vec<f32>>| values.is_none_or(|values| values.iter().all(|value| value.is_finite()));
    let train = trainable.read();
    for (part, source, weights) in parts {
        if let Some(name) = weights.names().into_iter().find(|name| !finite(weights.values(name))) {
            return Some((source, name.to_owned()));
        }
        let own = pipe_networks::Trainables::key(part, "");
        let learns = train.tensors.iter().filter(|(key, _)| key.starts_with(&own));
        if let Some((key, _)) = learns.into_iter().find(|(_, tensor)| !finite(Some(tensor.to_vec()))) {
            return Some((source, key[own.len()..].to_owned()));
        }
    }
    None
}
