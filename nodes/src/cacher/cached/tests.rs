//! Captions over the epochs and steps of a run.

use std::collections::BTreeSet;

use pipe_data::images::buckets;

use super::*;
use crate::loader::sample::CaptionRules;

/// Four images of one folder, two in a batch and two batches in a step.
fn cached(rules: CaptionRules, caption: &str) -> Cached {
    let size = (8, 8);
    let sample = |i: usize| Sample {
        path: format!("{i}.png").into(),
        caption: caption.into(),
        size,
        fit: buckets::cover(size, size),
        weight: 1.0,
        mask: None,
        held_out: false,
    };
    let folder = Samples {
        items: Arc::new((0..4).map(sample).collect()),
        repeats: 1,
        flip: false,
        captions: rules.clone(),
        pixels: Default::default(),
        words: Default::default(),
        folder: "photos".into(),
        resolution: size,
        regularization: false,
        preserve: false,
        class: None,
        buckets: None,
    };
    let store = Store::memory();
    store.put("image", HostTensor { values: vec![0.0; 3 * 64], shape: vec![3, 8, 8] }).unwrap();
    let mut cached = Cached {
        store,
        items: folder.items.iter().map(|sample| Item { folder: 0, sample: sample.clone() }).collect(),
        captions: vec![rules.of(16)],
        folders: vec![folder],
        usable: (0..4).collect(),
        starts: Vec::new(),
        batches: 0,
        held_out: Vec::new(),
        image_keys: (0..4).map(|i| ((i, false), "image".to_owned())).collect(),
        mask_keys: HashMap::new(),
        text_keys: BTreeMap::new(),
        latent_scale: None,
        vae_file: None,
        texts: Vec::new(),
        live_vae: None,
        live_texts: Vec::new(),
        seed: 3,
        batch: 2,
        accumulate: 2,
        order: Mutex::new(None),
        plain: OnceLock::new(),
        notices: Vec::new(),
        apart: 0,
        statistics: (0, 0.0, 0.0),
    };
    cached.number();
    cached
}

fn captions(cached: &Cached, epoch: u64) -> Vec<String> {
    (0..2).flat_map(|index| cached.batch(epoch, index).unwrap().captions).collect()
}

#[test]
fn tags_come_in_by_optimizer_steps() {
    let rules = CaptionRules { warmup: Some((1, None, Some(0.25))), ..Default::default() };
    let cached = cached(rules, "a,b,c,d,e");
    // Two batches are one step, which is an epoch; a quarter of 16 steps are 4.
    let counts: Vec<Vec<usize>> =
        (0..6).map(|epoch| captions(&cached, epoch).iter().map(|text| text.split(", ").count()).collect()).collect();
    assert_eq!(counts, [1, 2, 3, 4, 5, 5].map(|n| vec![n; 4]));
}

#[test]
fn captions_are_functions_of_their_place_in_the_run() {
    let options = CaptionOptions {
        dropout_every_epochs: Some(3),
        shuffle: true,
        tag_dropout: 0.2,
        keep_tokens: 1,
        ..Default::default()
    };
    let rules = CaptionRules { options, warmup: None };
    let (first, second) = (cached(rules.clone(), "a,b,c,d,e,f"), cached(rules, "a,b,c,d,e,f"));
    let mut seen = BTreeSet::new();
    // The other way round and each twice: nothing depends on what was asked before.
    let backwards: Vec<Vec<String>> = (0..9).rev().map(|epoch| captions(&second, epoch)).collect();
    for (epoch, other) in (0..9).zip(backwards.into_iter().rev()) {
        let texts = captions(&first, epoch);
        assert_eq!(texts, captions(&first, epoch));
        assert_eq!(texts, other);
        let dropped = epoch % 3 == 2;
        assert!(texts.iter().all(|text| text.is_empty() == dropped && (dropped || text.starts_with('a'))));
        seen.extend(texts);
    }
    assert!(seen.len() > 15, "{seen:?}");
    assert_eq!(first.whole_caption(0), "a, b, c, d, e, f");
}

#[test]
fn captions_without_the_trigger_are_counted() {
    use crate::loader::sample::PreserveClass;
    let options = CaptionOptions { wildcards: true, ..Default::default() };
    let rules = CaptionRules { options: options.clone(), warmup: None };
    let told = |caption: &str, options: &CaptionOptions| {
        let mut cached = cached(CaptionRules { options: options.clone(), warmup: None }, caption);
        cached.folders[0].class =
            Some(PreserveClass { trigger: rules.rejoined("sks dog"), class: "dog".into(), weight: 1.0 });
        cached.untriggered()
    };
    assert_eq!(told("a sks dog", &options), None);
    assert!(told("a {cat|cow}", &options).unwrap().starts_with("4 of the 4 captions of the first epoch"));
    // Dropped captions have nothing to preserve, and captions that do not change were checked.
    assert_eq!(told("a cat", &CaptionOptions { dropout: 1.0, ..options.clone() }), None);
    assert_eq!(told("a cat", &CaptionOptions::default()), None);
    let few = cached(rules, "a");
    assert_eq!((few.per_epoch(), few.tags_until()), (2, None));
}

/// A picture that is its own mask: where it is cut and mirrored its mask is too.
#[test]
fn masks_are_cut_as_images_are_at_each_use() {
    use crate::common::batch::PixelRules;
    use crate::loader::sample::MaskSource;
    use pipe_data::images::{Rgb8, png};
    let folder = tempfile::tempdir().unwrap();
    let (photo, mask) = (folder.path().join("photo.png"), folder.path().join("mask.png"));
    let mut picture = Rgb8::new(24, 16);
    picture.pixels.iter_mut().enumerate().for_each(|(at, value)| *value = (at / 3 * 37 % 251) as u8);
    png::write(&photo, &picture, &[]).unwrap();
    png::write(&mask, &picture, &[]).unwrap();
    let mut cached = cached(CaptionRules::default(), "a");
    cached.folders[0].flip = true;
    cached.folders[0].pixels = PixelRules { random_crop: true, own_size: true, ..Default::default() };
    for Item { sample, .. } in &mut cached.items {
        (sample.path, sample.mask) = (photo.clone(), Some(MaskSource::File(mask.clone())));
        (sample.size, sample.fit) = ((24, 16), buckets::cover((8, 8), (24, 16)));
    }
    let mut seen = BTreeSet::new();
    for epoch in 0..6 {
        let batch = cached.batch(epoch, 0).unwrap();
        let (images, masks) = (batch.images.unwrap().rows(), batch.mask.unwrap().rows());
        for (image, mask) in images.iter().zip(&masks) {
            let red = image[..64].iter().map(|value| (value + 1.0) / 2.0);
            assert!(red.zip(mask).all(|(image, mask)| (image - mask).abs() < 1e-6));
            seen.insert(format!("{:?}", &mask[..3]));
        }
    }
    assert!(seen.len() > 8, "{seen:?}");
    // A file that became another one is not stretched.
    png::write(&photo, &Rgb8::new(20, 16), &[]).unwrap();
    assert_eq!(cached.batch(0, 0).unwrap_err().code, "P0307");
}
