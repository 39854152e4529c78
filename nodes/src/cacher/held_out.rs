//! The images that a loader sets aside for validation, as a source of batches.

use std::sync::Arc;

use pipe_core::run::RunError;
use pipe_data::weights::Component;

use super::cached::Cached;
use crate::common::batch::{Batch, BatchSource, DataAbout};

/// Batches in a fixed order, the same in every epoch: each image once, with its whole caption and not mirrored.
pub struct HeldOut {
    cached: Arc<Cached>,
    batches: Vec<Vec<usize>>,
}

impl HeldOut {
    /// Of a filled cache.
    pub fn new(cached: Arc<Cached>) -> Self {
        HeldOut { batches: cached.held_out_batches(), cached }
    }
}

impl BatchSource for HeldOut {
    fn per_epoch(&self) -> u64 {
        self.batches.len() as u64
    }

    fn batch(&self, _epoch: u64, index: u64) -> Result<Batch, RunError> {
        let of = |images: &Vec<usize>| self.cached.batch_of(images);
        self.batches.get(index as usize).map_or_else(|| Ok(Batch::default()), of)
    }

    fn text_encoders(&self) -> Vec<Component> {
        self.cached.text_encoders()
    }

    fn content(&self) -> String {
        self.cached.content()
    }

    fn about(&self) -> DataAbout {
        self.cached.about()
    }
}
