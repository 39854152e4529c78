//! What a folder of images is to those who read it: the value of a `Samples` port.

use std::path::PathBuf;
use std::sync::Arc;

use pipe_data::captions::{CaptionOptions, TokenWarmup};
use pipe_data::images::buckets::Fit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cacher::uses::Folder;
use crate::common::batch::{BucketRules, PixelRules, Words};
use crate::common::plain_value;

/// An image of the data set.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// Caption as read, prefix and suffix added.
    pub caption: String,
    /// Size of the file in pixels.
    pub size: (usize, usize),
    /// How it is fitted.
    pub fit: Fit,
    /// What its loss is multiplied by.
    pub weight: f32,
    /// Set aside for validation.
    pub held_out: bool,
    /// Where its mask comes from.
    pub mask: Option<MaskSource>,
}

/// Mean distance between the aspect ratios of images and of their buckets; nothing without images.
pub fn mean_ratio_error<'s>(samples: impl IntoIterator<Item = &'s Sample>) -> Option<f64> {
    let (mut count, mut sum) = (0u64, 0.0);
    for sample in samples {
        (count, sum) = (count + 1, sum + sample.fit.ratio_error(sample.size));
    }
    (count > 0).then(|| sum / count as f64)
}

/// Where a mask comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskSource {
    /// The image's alpha channel; all ones where it has none.
    Alpha,
    /// The red channel of another image.
    File(PathBuf),
}

/// How captions change from use to use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptionRules {
    /// Everything but the warm-up, whose length may be a part of the run. Captions have prefix and suffix already.
    pub options: CaptionOptions,
    /// Tags at the first step, and steps or the part of the run until all are used.
    pub warmup: Option<(u64, Option<u64>, Option<f64>)>,
}

impl CaptionRules {
    /// Whether each use of a caption that is not dropped has the caption as it is.
    pub fn is_plain(&self) -> bool {
        let options = &self.options;
        self.warmup.is_none() && !options.wildcards && !options.shuffle && options.tag_dropout <= 0.0
    }

    /// Whether captions are cut into tags and joined again.
    pub fn cuts(&self) -> bool {
        self.warmup.is_some() || self.options.changes_tags()
    }

    /// A text of captions as uses have it, where those are cut into tags and joined again.
    pub fn rejoined(&self, text: &str) -> String {
        let CaptionOptions { separator, secondary_separator, .. } = &self.options;
        let mut text = text.to_owned();
        if self.cuts() {
            text = text.split(separator.as_str()).map(str::trim).collect::<Vec<_>>().join(", ");
        }
        match secondary_separator.is_empty() {
            true => text,
            false => text.replace(secondary_separator.as_str(), separator),
        }
    }

    /// In a run of so many steps.
    pub fn of(&self, total_steps: u64) -> CaptionOptions {
        let warmup = self.warmup.map(|(min, steps, ratio)| {
            let part = ratio.map_or(0, |ratio| (ratio * total_steps as f64) as u64);
            TokenWarmup { min: min as usize, steps: steps.unwrap_or(part) }
        });
        CaptionOptions { warmup, ..self.options.clone() }
    }
}

/// Images of the class.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct Regularization {
    /// What their loss is multiplied by; 1 is usual.
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub weight: f64,
}

/// Captions of the class that a concept belongs to, whose images are to stay as the base model makes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreserveClass {
    /// The word or words of the concept, as they stand in the captions.
    #[schemars(length(min = 1))]
    pub trigger: String,
    /// What stands in their place in the class's captions, such as `dog` for `sks dog`.
    #[schemars(length(min = 1))]
    pub class: String,
    /// Weight of this loss beside the one on the images. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0.000001, max = 1000.0))]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl PreserveClass {
    /// The caption with the class in place of the trigger; nothing where the trigger is not in it.
    pub fn caption(&self, caption: &str) -> Option<String> {
        caption.contains(&self.trigger).then(|| caption.replace(&self.trigger, &self.class))
    }
}

/// The value of a `Samples` port.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Images in order of path.
    pub items: Arc<Vec<Sample>>,
    /// Uses of each image in an epoch.
    pub repeats: u64,
    /// Mirrored with probability ½.
    pub flip: bool,
    /// Caption rules.
    pub captions: CaptionRules,
    /// How images are cut, coloured and resized.
    pub pixels: PixelRules,
    /// Words given to captions.
    pub words: Words,
    /// Name of the folder.
    pub folder: String,
    /// Requested size.
    pub resolution: (usize, usize),
    /// Aspect-ratio buckets.
    pub buckets: Option<BucketRules>,
    /// Images of the class, used as often as the others of their resolution together.
    pub regularization: bool,
    /// The target is what the base model predicts.
    pub preserve: bool,
    /// Captions of the class, for a second loss.
    pub class: Option<PreserveClass>,
}

plain_value!(Samples);

impl Samples {
    /// As it counts in an epoch, with so many images.
    pub fn counted(&self, images: usize) -> Folder {
        Folder { images, repeats: self.repeats, resolution: self.resolution, regularization: self.regularization }
    }

    /// Images that are trained on.
    pub fn trained(&self) -> usize {
        self.items.iter().filter(|sample| !sample.held_out).count()
    }

    /// Whether images are used as they are, and mirrored.
    pub fn mirrors(&self) -> &'static [bool] {
        if self.flip { &[false, true] } else { &[false] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_run_is_a_number_of_steps() {
        let warmup =
            |steps, ratio| CaptionRules { warmup: Some((2, steps, ratio)), ..Default::default() }.of(1001).warmup;
        assert_eq!(warmup(None, Some(0.25)), Some(TokenWarmup { min: 2, steps: 250 }));
        assert_eq!(warmup(Some(7), None), Some(TokenWarmup { min: 2, steps: 7 }));
        assert_eq!(CaptionRules::default().of(10), CaptionOptions::default());
    }

    #[test]
    fn a_trigger_is_what_captions_become() {
        let options = CaptionOptions { shuffle: true, secondary_separator: ";;".into(), ..Default::default() };
        let rules = CaptionRules { options: options.clone(), warmup: None };
        assert_eq!(rules.rejoined("sks,big;;dog"), "sks, big,dog");
        let still = CaptionRules { options: CaptionOptions { shuffle: false, ..options }, warmup: None };
        assert_eq!(still.rejoined("sks,big;;dog"), "sks,big,dog");
    }

    #[test]
    fn the_class_stands_in_place_of_the_trigger() {
        let class = PreserveClass { trigger: "sks dog".into(), class: "dog".into(), weight: 1.0 };
        assert_eq!(class.caption("a sks dog by a sks dog").as_deref(), Some("a dog by a dog"));
        assert_eq!(class.caption("a dog"), None);
    }
}
