//! What saved files say of the data.

use std::collections::BTreeMap;

use pipe_data::metadata::count_tags;

use super::cached::Cached;
use crate::common::batch::{DataAbout, DataRules, FolderAbout};
use crate::loader::sample::Samples;

impl Cached {
    /// Facts for the metadata of saved files.
    pub(super) fn describe(&self) -> DataAbout {
        let mut about = DataAbout {
            resolution: self.folders.first().map_or((0, 0), |f| f.resolution),
            buckets: self.buckets().into_iter().map(|(b, e)| (b, e.len() as u64)).collect(),
            batch_size: self.batch as u64,
            held_out: self.held_out.len() as u64,
            // Files have room for one answer: that of the first folder.
            rules: self.folders.first().map(rules),
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
