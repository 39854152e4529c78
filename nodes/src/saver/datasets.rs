//! `ss_datasets`: what a saved adapter says of its data when there are several folders, as sd-scripts writes it of a
//! dataset file. Each loader is a data set with one subset.

use pipe_data::metadata::{BucketCount, DatasetFolder, bucket_info, tag_frequency};
use serde_json::{Value as Json, json};

use crate::common::batch::{FolderAbout, filter_name};

/// The JSON list.
pub fn datasets(folders: &[FolderAbout], batch_size: u64) -> String {
    json!(folders.iter().map(|folder| dataset(folder, batch_size)).collect::<Vec<_>>()).to_string()
}

fn dataset(folder: &FolderAbout, batch_size: u64) -> Json {
    let (rules, words) = (&folder.rules, &folder.words);
    let parsed = |text: String| serde_json::from_str::<Json>(&text).unwrap_or_default();
    let buckets: Vec<BucketCount> =
        folder.buckets.iter().map(|(size, count)| BucketCount { size: *size, count: *count }).collect();
    let tags = DatasetFolder { name: folder.name.clone(), tags: folder.tags.clone(), ..Default::default() };
    let sides = rules.buckets.and_then(|buckets| buckets.sides);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut subset = json!({
        "img_count": folder.images,
        "num_repeats": folder.repeats,
        "color_aug": rules.pixels.color,
        "flip_aug": rules.flip,
        "random_crop": rules.pixels.random_crop,
        "shuffle_caption": rules.captions.shuffle,
        "keep_tokens": rules.captions.keep_tokens,
        "keep_tokens_separator": rules.captions.keep_tokens_separator,
        "secondary_separator": some(&rules.captions.secondary_separator),
        "enable_wildcard": rules.captions.wildcards,
        "caption_prefix": words.prefix,
        "caption_suffix": words.suffix,
        "resize_interpolation": rules.pixels.filter.map(filter_name),
        "image_dir": folder.name,
    });
    if let Some(subset) = subset.as_object_mut() {
        match &words.metadata {
            Some(file) => {
                subset.insert("metadata_file".into(), json!(file));
            }
            None => {
                subset.insert("class_tokens".into(), json!(words.default));
                subset.insert("is_reg".into(), json!(folder.regularization));
            }
        }
    }
    let uses = |regularization: bool| if folder.regularization == regularization { folder.uses } else { 0 };
    json!({
        "is_dreambooth": words.metadata.is_none(),
        "batch_size_per_device": batch_size,
        "num_train_images": uses(false),
        "num_reg_images": uses(true),
        "resolution": [folder.resolution.0, folder.resolution.1],
        "enable_bucket": rules.buckets.is_some(),
        "min_bucket_reso": sides.map(|sides| sides.0),
        "max_bucket_reso": sides.map(|sides| sides.1),
        "tag_frequency": parsed(tag_frequency(&[tags])),
        "bucket_info": parsed(bucket_info(&buckets, folder.ratio_error)),
        "resize_interpolation": rules.pixels.filter.map(filter_name),
        "subsets": [subset],
    })
}
