//! Captions and images that change from use to use, through whole runs of documents.

use std::path::Path;
use std::sync::{Arc, Mutex};

use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, run};
use pipe_core::run::{Progress, RunError, StopFlag};
use pipe_data::images::{Rgb8, png};

/// Keeps warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// Six pictures of 48×40 pixels, no two alike.
fn pictures(folder: &Path, caption: &str) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..6usize {
        let mut picture = Rgb8::new(48, 40);
        for (at, value) in picture.pixels.iter_mut().enumerate() {
            *value = ((at * (7 + i) + at / 96 * 13 + i * 31) % 251) as u8;
        }
        png::write(folder.join(format!("{i}.png")), &picture, &[]).unwrap();
        std::fs::write(folder.join(format!("{i}.txt")), caption.replace('#', &i.to_string())).unwrap();
    }
}

/// What a run that trains on a folder with some options saves.
struct Set<'a> {
    photos: &'a str,
    encoders: &'a str,
}

impl Set<'_> {
    fn document(&self, steps: u64) -> String {
        let model = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures/diffusers_dir");
        format!(
            "version: 1\nname: t\ntrain: {{ device: cpu, steps: {steps}, batch_size: 2, accumulate: 2 }}\nnodes:\n  \
             photos: {{ type: loader.images, path: photos, resolution: 64, {} }}\n  \
             vae: {{ type: encoder.vae, weights: {model} }}\n  \
             clip: {{ type: encoder.clip_l, init: {{ width: 24, layers: 1, heads: 2 }} }}\n  \
             cached: {{ type: cacher.memory, samples: photos, {} }}\n  \
             unet: {{ type: model.sd1, weights: {model} }}\n  \
             lora: {{ type: adapter.lora, model: unet, rank: 2 }}\n  \
             loss: {{ type: loss.diffusion, model: lora, batch: cached }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-2 }}\n  \
             save: {{ type: saver.adapter, adapter: lora, update: adamw, dtype: f32 }}\n",
            self.photos,
            self.encoders,
            model = model.display()
        )
    }

    fn train(&self, folder: &Path, out: &str, steps: u64, resume: bool) -> Vec<f32> {
        self.go(folder, out, steps, resume).unwrap();
        let file = pipe_data::weights::WeightFile::open(folder.join(out).join("checkpoints/t.safetensors")).unwrap();
        let mut names: Vec<&str> = file.names().collect();
        names.sort_unstable();
        names.iter().flat_map(|n| file.f32(n).unwrap()).collect()
    }

    /// A run, and what it warned of.
    fn go(&self, folder: &Path, out: &str, steps: u64, resume: bool) -> Result<Vec<String>, RunError> {
        let registry = pipe_nodes::registry();
        let text = self.document(steps);
        let checked = pipe_core::check::check_text(&registry, &text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
        let format = pipe_core::diagnostic::Format::Concise;
        assert!(
            checked.ok(),
            "{}",
            pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false)
        );
        let progress = Arc::new(Warnings::default());
        let options =
            RunOptions { folder: folder.join(out), resume, progress: progress.clone(), stop: StopFlag::default() };
        run(&registry, &checked, options)?;
        let warnings = progress.0.lock().unwrap().clone();
        Ok(warnings)
    }

    /// Trains six steps at once, and three and then three more.
    fn continues(&self, folder: &Path, name: &str) -> Vec<f32> {
        let (whole, parts) = (format!("{name}-whole"), format!("{name}-parts"));
        let expected = self.train(folder, &whole, 6, false);
        self.train(folder, &parts, 3, false);
        assert!(self.train(folder, &parts, 6, true) == expected, "{name} does not go on as it was");
        expected
    }
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt();
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / norm(a)
}

#[test]
fn encoders_that_run_in_steps_give_what_a_cache_gives() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("photos"), "a picture, number #");
    let photos = "caption_dropout_rate: 0.2, flip_aug: true";
    let set = |encoders| Set { photos, encoders };
    let cached = set("vae: vae, text: clip").train(folder.path(), "a", 4, false);
    let live = set("vae: vae, live_text: clip").train(folder.path(), "b", 4, false);
    assert!(far(&cached, &live) < 1e-4, "{}", far(&cached, &live));
}

#[test]
fn images_encoded_in_steps_are_those_of_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("photos"), "a picture");
    let masks = folder.path().join("masks");
    std::fs::create_dir_all(&masks).unwrap();
    for i in 0..6usize {
        let mut mask = Rgb8::new(48, 40);
        mask.pixels.iter_mut().enumerate().for_each(|(at, value)| *value = (at / 3 % 48 * 5) as u8);
        png::write(masks.join(format!("{i}.png")), &mask, &[]).unwrap();
    }
    for photos in ["flip_aug: true", "flip_aug: true, masks: masks, resize_interpolation: bicubic"] {
        let set = |encoders| Set { photos, encoders };
        let cached = set("vae: vae, text: clip").train(folder.path(), "a", 4, false);
        let live = set("live_vae: vae, text: clip, vae_batch_size: 1").train(folder.path(), "b", 4, false);
        assert!(far(&cached, &live) < 1e-4, "{}", far(&cached, &live));
        std::fs::remove_dir_all(folder.path().join("a")).unwrap();
        std::fs::remove_dir_all(folder.path().join("b")).unwrap();
    }
}

/// Masks of pictures that are decoded at each use are data as well.
#[test]
fn a_run_whose_masks_changed_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("photos"), "a picture");
    let masks = folder.path().join("masks");
    std::fs::create_dir_all(&masks).unwrap();
    let paint = |value: u8| {
        for i in 0..6usize {
            let mut mask = Rgb8::new(48, 40);
            mask.pixels.fill(value);
            png::write(masks.join(format!("{i}.png")), &mask, &[]).unwrap();
        }
    };
    paint(200);
    let set = Set { photos: "masks: masks", encoders: "live_vae: vae, text: clip" };
    set.train(folder.path(), "a", 1, false);
    paint(100);
    assert_eq!(set.go(folder.path(), "a", 2, true).unwrap_err().code, "P0908");
    paint(200);
    set.train(folder.path(), "a", 2, true);
    paint(0);
    let warnings = set.go(folder.path(), "b", 1, false).unwrap();
    assert!(warnings.iter().any(|line| line.contains("the masks of 6 images")), "{warnings:?}");
}

/// A ratio of a longer run is another step: that tags in use are taken out again is told.
#[test]
fn a_longer_run_tells_that_tags_leave_again() {
    for (length, tells) in [("ratio: 0.5", true), ("steps: 2", false)] {
        let folder = tempfile::tempdir().unwrap();
        pictures(&folder.path().join("photos"), "a, b, c, d, number #");
        let photos = format!("token_warmup: {{ {length} }}");
        let set = Set { photos: &photos, encoders: "vae: vae, live_text: clip" };
        assert_eq!(set.go(folder.path(), "a", 4, false).unwrap(), [""; 0]);
        let warnings = set.go(folder.path(), "a", 12, true).unwrap();
        let told = warnings.iter().filter(|line| line.contains("all their tags at step 6 and not at step 2")).count();
        assert_eq!(told, usize::from(tells), "{warnings:?}");
    }
}

#[test]
fn changing_images_continue_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("photos"), "a picture");
    let list = ["random_crop: true", "color_aug: true", "resize_interpolation: nearest"];
    let encoders = "live_vae: vae, live_text: clip";
    let all = list.join(", ");
    let full = Set { photos: &all, encoders }.continues(folder.path(), "all");
    // Each counts.
    for left_out in 0..3 {
        let mut list = list.to_vec();
        list.remove(left_out);
        let photos = list.join(", ");
        let other = Set { photos: &photos, encoders }.train(folder.path(), &format!("{left_out}"), 6, false);
        assert!(far(&full, &other) > 1e-6, "{} left out changes nothing", left_out);
    }
}

#[test]
fn a_metadata_file_says_what_caption_files_say() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("photos"), "a picture, number #");
    let encoders = "vae: vae, text: clip";
    let files = Set { photos: "flip_aug: true", encoders }.train(folder.path(), "files", 4, false);
    let lines = |form: &dyn Fn(usize) -> String| (0..6).rev().map(form).collect::<Vec<_>>();
    let object = lines(&|i| format!("\"{i}\": {{ \"caption\": \"a picture\", \"tags\": \"number {i}\" }}"));
    std::fs::write(folder.path().join("all.json"), format!("{{ {} }}", object.join(",\n"))).unwrap();
    let list = lines(&|i| {
        format!("{{ \"image_path\": \"{i}.png\", \"caption\": \"a picture, number {i}\", \"image_size\": [48, 40] }}")
    });
    std::fs::write(folder.path().join("all.jsonl"), list.join("\n\n")).unwrap();
    for (name, more) in [("all.json", ", caption_separator: ', '"), ("all.jsonl", "")] {
        let photos = format!("flip_aug: true, metadata: {name}{more}");
        let listed = Set { photos: &photos, encoders }.train(folder.path(), &format!("of-{name}"), 4, false);
        assert!(listed == files, "{name} trains something else");
    }
}

#[test]
fn changing_captions_continue_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    pictures(
        &folder.path().join("photos"),
        "sks ||| a {red|green} cat, big, number#\nsks ||| second line, a, b ||| end",
    );
    let options = [
        "wildcards: true",
        "shuffle_caption: true",
        "tag_dropout_rate: 0.3",
        "token_warmup: { min: 1, steps: 5 }",
        "caption_dropout_every_epochs: 3",
    ];
    let of = |list: &[&str]| format!("keep_tokens_separator: '|||', {}", list.join(", "));
    let all = of(&options);
    let encoders = "vae: vae, live_text: clip";
    let full = Set { photos: &all, encoders }.continues(folder.path(), "all");
    // Each of them counts.
    for left_out in 0..options.len() {
        let mut list = options.to_vec();
        list.remove(left_out);
        let photos = of(&list);
        let other = Set { photos: &photos, encoders }.train(folder.path(), &format!("{left_out}"), 6, false);
        let distance = far(&full, &other);
        assert!(distance > 1e-6, "{} changes nothing: {distance}", options[left_out]);
    }
}
