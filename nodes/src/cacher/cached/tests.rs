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
