//! The data set in an adapter's metadata: folders, tags and buckets as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

/// A folder of training images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetFolder {
    /// Its base name.
    pub name: String,
    /// How often each image is used in an epoch.
    pub repeats: u64,
    /// Images in it.
    pub images: u64,
    /// How many captions have each tag; see [`count_tags`].
    pub tags: BTreeMap<String, u64>,
}

/// A bucket and the images in it, repeats counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketCount {
    /// Width and height.
    pub size: (usize, usize),
    /// Images.
    pub count: u64,
}

/// How often each tag occurs: captions split at commas, trimmed and in lower case.
pub fn count_tags<'a>(captions: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut tags = BTreeMap::new();
    for caption in captions {
        for tag in caption.split(',').map(|tag| tag.trim().to_lowercase()).filter(|tag| !tag.is_empty()) {
            *tags.entry(tag).or_insert(0) += 1;
        }
    }
    tags
}

/// `ss_tag_frequency`: folder → tag → count, with the names of [`dataset_dirs`].
pub fn tag_frequency(folders: &[DatasetFolder]) -> String {
    by_folder(folders, |folder| json!(folder.tags))
}

/// `ss_dataset_dirs`: folder → repeats and images. Names that occur again get ` (2)` and so on.
pub fn dataset_dirs(folders: &[DatasetFolder]) -> String {
    by_folder(folders, |folder| json!({ "n_repeats": folder.repeats, "img_count": folder.images }))
}

/// Something of each folder, by a name that no other has.
fn by_folder(folders: &[DatasetFolder], value: impl Fn(&DatasetFolder) -> Json) -> String {
    let mut all = Map::new();
    for folder in folders {
        let numbered = (2..).map(|n| format!("{} ({n})", folder.name));
        let mut names = std::iter::once(folder.name.clone()).chain(numbered);
        if let Some(name) = names.find(|name| !all.contains_key(name)) {
            all.insert(name, value(folder));
        }
    }
    Json::Object(all).to_string()
}

/// `ss_bucket_info`: the buckets in order, and the mean distance of aspect ratios where it is known.
pub fn bucket_info(buckets: &[BucketCount], mean_ratio_error: Option<f64>) -> String {
    let mut all = Map::new();
    for (i, bucket) in buckets.iter().enumerate() {
        let (width, height) = bucket.size;
        all.insert(i.to_string(), json!({ "resolution": [width, height], "count": bucket.count }));
    }
    let mut info = Map::from_iter([("buckets".to_owned(), Json::Object(all))]);
    info.extend(mean_ratio_error.map(|error| ("mean_img_ar_error".to_owned(), json!(error))));
    Json::Object(info).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_other_programs_read_it() {
        let tags = count_tags(["A cat, sks", "a cat,, dog ", ""]);
        let folder = DatasetFolder { name: "10_cats".into(), repeats: 10, images: 2, tags };
        let folders = [folder.clone(), folder];
        assert_eq!(
            tag_frequency(&folders),
            r#"{"10_cats":{"a cat":2,"dog":1,"sks":1},"10_cats (2)":{"a cat":2,"dog":1,"sks":1}}"#
        );
        assert_eq!(
            dataset_dirs(&folders),
            r#"{"10_cats":{"n_repeats":10,"img_count":2},"10_cats (2)":{"n_repeats":10,"img_count":2}}"#
        );
        let buckets = [BucketCount { size: (512, 512), count: 3 }];
        assert_eq!(
            bucket_info(&buckets, Some(0.5)),
            r#"{"buckets":{"0":{"resolution":[512,512],"count":3}},"mean_img_ar_error":0.5}"#
        );
        assert_eq!(bucket_info(&buckets, None), r#"{"buckets":{"0":{"resolution":[512,512],"count":3}}}"#);
    }
}
