//! What is not cached: captions that change from use to use are encoded in the step that uses them.

use pipe_core::run::RunError;
use pipe_data::weights::Component;

use super::cached::{Cached, push};
use super::fill::{captions_at_once, finite};
use crate::common::batch::{HostTensor, TextRows};
use crate::common::text::TextEncoder;

/// Outputs of a text encoder for captions.
fn rows(text: &TextEncoder, captions: &[String]) -> Result<TextRows, RunError> {
    let (tokens, width) = (text.prompts.tokens(), text.network.width());
    let mut rows = TextRows::default();
    for chunk in captions.chunks(captions_at_once(tokens)) {
        let encoded = text.encode(chunk, false, None)?;
        let hidden = encoded.hidden.to_vec();
        for (caption, values) in chunk.iter().zip(hidden.chunks(tokens * width)) {
            finite(text, caption, values, "live_text")?;
            push(&mut rows.hidden, HostTensor { values: values.to_vec(), shape: vec![tokens, width] });
        }
        if let Some(pooled) = &encoded.pooled {
            let stack = rows.pooled.get_or_insert_default();
            for values in pooled.to_vec().chunks(pooled.dim(1)) {
                push(stack, HostTensor { values: values.to_vec(), shape: vec![pooled.dim(1)] });
            }
        }
        for values in encoded.mask.into_iter().flatten() {
            let stack = rows.mask.get_or_insert_default();
            push(stack, HostTensor { shape: vec![values.len()], values });
        }
    }
    Ok(rows)
}

impl Cached {
    /// Outputs of the text encoders that run at each use.
    pub(super) fn live_rows(&self, captions: &[String]) -> Result<Vec<(Component, TextRows)>, RunError> {
        let of = |text: &TextEncoder| Ok((text.component, rows(text, captions)?));
        self.live_texts.iter().map(|text| of(text)).collect()
    }
}
