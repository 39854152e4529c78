//! What saved files say of the data.

use std::collections::BTreeMap;

use pipe_data::metadata::count_tags;

use super::cached::Cached;
use crate::common::batch::{DataAbout, DataRules, FolderAbout};
use crate::loader::sample::{Samples, mean_ratio_error};

impl Cached {
    /// Facts for the metadata of saved files.
    pub(super) fn describe(&self) -> DataAbout {
        // Files have room for one answer: that of the first folder of training images.
        let first = self.folders.iter().find(|folder| !folder.regularization).or(self.folders.first());
        let mut about = DataAbout {
            resolution: first.map_or((0, 0), |f| f.resolution),
            buckets: self.bucket_uses().into_iter().filter(|(_, uses)| *uses > 0).collect(),
            ratio_error: self.ratio_error(|_| true),
            batch_size: self.batch as u64,
            held_out: self.held_out.len() as u64,
            rules: first.map(rules),
            cached: self.live_vae.is_none(),
            vae: self.vae_file.clone(),
            texts: self.texts.clone(),
            ..Default::default()
        };
        for (f, folder) in self.folders.iter().enumerate() {
            let own: Vec<(usize, usize)> = self.uses().filter(|(i, _)| self.items[*i].folder == f).collect();
            let uses: u64 = own.iter().map(|(_, uses)| *uses as u64).sum();
            let line = (folder.folder.clone(), folder.repeats, own.len() as u64);
            let tags = count_tags(own.iter().map(|(i, _)| self.items[*i].sample.caption.as_str()));
            if self.folders.len() > 1 {
                let mut buckets: BTreeMap<_, u64> = BTreeMap::new();
                for (i, uses) in &own {
                    *buckets.entry(self.items[*i].sample.fit.bucket).or_default() += *uses as u64;
                }
                about.several.push(FolderAbout {
                    name: folder.folder.clone(),
                    resolution: folder.resolution,
                    images: own.len() as u64,
                    uses,
                    repeats: folder.repeats,
                    regularization: folder.regularization,
                    tags: tags.clone(),
                    buckets,
                    ratio_error: self.ratio_error(|folder| folder == f),
                    rules: rules(folder),
                    words: folder.words.clone(),
                });
            }
            if folder.regularization {
                about.reg_images += uses;
                // As it stands in the document, not as an f32 is close to it.
                let weight = own.first().map(|(i, _)| self.items[*i].sample.weight.to_string());
                about.prior_weight = weight.and_then(|text| text.parse().ok());
                about.reg_folders.push(line);
                continue;
            }
            about.images += uses;
            about.folders.push(line);
            about.tags.push((folder.folder.clone(), tags.into_iter().collect()));
        }
        about
    }

    /// Mean distance between the aspect ratios of images and of their buckets, of some folders.
    fn ratio_error(&self, of: impl Fn(usize) -> bool) -> Option<f64> {
        let used = self.uses().filter(|(_, uses)| *uses > 0).map(|(i, _)| &self.items[i]);
        mean_ratio_error(used.filter(|item| of(item.folder)).map(|item| &item.sample))
    }
}

/// What a folder's loader does to images and captions.
fn rules(folder: &Samples) -> DataRules {
    DataRules {
        captions: folder.captions.options.clone(),
        pixels: folder.pixels,
        flip: folder.flip,
        buckets: folder.buckets,
    }
}
