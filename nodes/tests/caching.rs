//! Caches and bad data, through whole runs of documents.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pipe_core::check::Checked;
use pipe_core::document::Syntax;
use pipe_core::execute::{Outcome, RunOptions, run};
use pipe_core::plan::plan_document;
use pipe_core::run::{Progress, RunError, StopFlag};
use pipe_data::images::{Rgb8, png};
use pipe_data::weights::{DType, TensorOut, write_safetensors};

/// Remembers what a run told.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Progress for Log {
    fn tick(&self, what: &str, done: u64, total: u64) {
        self.0.lock().unwrap().push(format!("{what} {done}/{total}"));
    }
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.into());
    }
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }
}

impl Log {
    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|l| l.contains(text))
    }
}

fn images() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../pipelines/quickstart/images/heldout")
}

fn check(folder: &Path, text: &str) -> Checked {
    pipe_core::check::check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[])
}

fn go(folder: &Path, out: &str, text: &str, resume: bool) -> (Result<Outcome, RunError>, Arc<Log>) {
    let checked = check(folder, text);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    let log = Arc::new(Log::default());
    let options = RunOptions { folder: folder.join(out), resume, progress: log.clone(), stop: StopFlag::default() };
    (run(&pipe_nodes::registry(), &checked, options), log)
}

fn document(photos: &Path, cache: &str, steps: u64) -> String {
    format!(
        "version: 1\nname: t\ntrain: {{ device: cpu, steps: {steps}, batch_size: 3, accumulate: 2 }}\nnodes:\n  \
         photos: {{ type: loader.images, path: {}, resolution: 32, caption_dropout_rate: 0.3, flip_aug: true }}\n  \
         vae: {{ type: encoder.vae, init: {{ widths: [8, 8], layers: 1, norm_groups: 4 }} }}\n  \
         clip: {{ type: encoder.clip_l, init: {{ width: 16, layers: 1, heads: 2 }} }}\n  \
         cached: {{ {cache}, samples: photos, vae: vae, text: clip }}\n  \
         unet: {{ type: model.sd1, init: {{ widths: [16, 16], layers: 1, heads: 2, context_dim: 16, norm_groups: 4 }} }}\n  \
         lora: {{ type: adapter.lora, model: unet, rank: 2, conv: {{ rank: 2 }}, dropout: 0.1, rank_dropout: 0.1, module_dropout: 0.1 }}\n  \
         loss: {{ type: loss.diffusion, model: lora, batch: cached, noise_offset: 0.05 }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-2 }}\n  \
         save: {{ type: saver.adapter, adapter: lora, update: adamw, dtype: f32, every: {{ steps: 2 }}, keep_last: {{ count: 1 }} }}\n",
        photos.display()
    )
}

fn result(folder: &Path, out: &str) -> Vec<f32> {
    let file = pipe_data::weights::WeightFile::open(folder.join(out).join("checkpoints/t.safetensors")).unwrap();
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    names.iter().flat_map(|n| file.f32(n).unwrap()).collect()
}

#[test]
fn disk_and_memory_train_the_same_and_the_disk_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = format!("type: cacher.disk, folder: {}", folder.path().join("cache").display());
    let (first, log) = go(folder.path(), "a", &document(&images(), &cache, 5), false);
    assert_eq!(first.unwrap().position.step, 5);
    assert!(log.has("encode images 20/20"), "both mirrors of ten images");
    assert!(log.has("encode captions 11/11"), "ten captions and the empty one");
    // Retention: of steps 2 and 4 only the last is left, and the final file beside it.
    let mut saved: Vec<String> = std::fs::read_dir(folder.path().join("a/checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    saved.sort();
    assert_eq!(saved, ["t-step00000004.safetensors", "t.safetensors"]);

    let (second, log) = go(folder.path(), "b", &document(&images(), &cache, 5), false);
    second.unwrap();
    assert!(!log.has("encode"), "everything was cached");
    let (third, _) = go(folder.path(), "c", &document(&images(), "type: cacher.memory", 5), false);
    third.unwrap();
    let a = result(folder.path(), "a");
    assert_eq!(a, result(folder.path(), "b"));
    assert_eq!(a, result(folder.path(), "c"));

    // A damaged entry is made again.
    let mut entries = Vec::new();
    for part in std::fs::read_dir(folder.path().join("cache")).unwrap() {
        entries.extend(std::fs::read_dir(part.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
    }
    entries.sort();
    std::fs::write(&entries[0], b"torn").unwrap();
    let (fourth, log) = go(folder.path(), "d", &document(&images(), &cache, 5), false);
    fourth.unwrap();
    assert!(log.has("1/1"), "one entry was made again");
    assert_eq!(a, result(folder.path(), "d"));

    // One whose values changed is found when it is used, and made again by the next run.
    for entry in &entries {
        let mut bytes = std::fs::read(entry).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(entry, &bytes).unwrap();
    }
    let (fifth, _) = go(folder.path(), "e", &document(&images(), &cache, 5), false);
    let error = fifth.unwrap_err();
    assert_eq!(error.code, "P0303");
    // All of the run at once.
    assert!(error.message.contains("so are 30 more entries"), "{}", error.message);
    assert!(entries.iter().all(|entry| !entry.exists()));
    go(folder.path(), "f", &document(&images(), &cache, 5), false).0.unwrap();
    assert_eq!(a, result(folder.path(), "f"));
}

/// A network of the same shapes is another where its norms have other groups: what one encoded is not the other's.
#[test]
fn latents_of_another_configuration_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = format!("type: cacher.disk, folder: {}", folder.path().join("cache").display());
    let text = document(&images(), &cache, 2);
    go(folder.path(), "a", &text, false).0.unwrap();
    let (outcome, log) = go(folder.path(), "b", &text.replacen("norm_groups: 4", "norm_groups: 2", 1), false);
    outcome.unwrap();
    assert!(log.has("encode images 20/20") && !log.has("encode captions"), "{:?}", log.0.lock().unwrap());
}

/// Folders of one base name, and one at two sizes with regularization images at both.
#[test]
fn folders_of_one_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    masked(folder.path(), 64);
    let other = folder.path().join("other/photos");
    std::fs::create_dir_all(&other).unwrap();
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(format!("photos/{name}.txt")), "red, cat").unwrap();
        std::fs::copy(folder.path().join(format!("photos/{name}.png")), other.join(format!("{name}.png"))).unwrap();
        std::fs::write(other.join(format!("{name}.txt")), "one").unwrap();
    }
    let loader = |name: &str, path: &Path, more: &str| {
        format!("  {name}: {{ type: loader.images, path: {}, resolution: {more} }}\n", path.display())
    };
    let more = [
        loader("large", Path::new("photos"), "48"),
        loader("third", Path::new("other/photos"), "32"),
        loader("kept", &images(), "32, regularization: { weight: 1 }"),
        loader("large_kept", &images(), "[48, 48], regularization: { weight: 1 }"),
    ];
    let text = document(Path::new("photos"), "type: cacher.memory", 1)
        .replace("  vae:", &format!("{}  vae:", more.concat()))
        .replace("samples: photos", "samples: [photos, large, third, kept, large_kept]");
    go(folder.path(), "a", &text, false).0.unwrap();
    let file = pipe_data::weights::WeightFile::open(folder.path().join("a/checkpoints/t.safetensors")).unwrap();
    let metadata = &file.header().metadata;
    let told = |key: &str| serde_json::from_str::<serde_json::Value>(&metadata[key]).unwrap();
    let tags = serde_json::json!({ "red": 2, "cat": 2 });
    assert_eq!(
        told("ss_tag_frequency"),
        serde_json::json!({ "photos": tags, "photos (2)": tags, "photos (3)": { "one": 2 } })
    );
    assert_eq!(metadata["ss_dataset_dirs"].matches("\"img_count\":2").count(), 3);
    // Each size is balanced by itself: four of 32 pixels, two of 48.
    assert_eq!(
        told("ss_reg_dataset_dirs"),
        serde_json::json!({ "heldout": { "n_repeats": 1, "img_count": 4 }, "heldout (2)": { "n_repeats": 1, "img_count": 2 } })
    );
    assert_eq!(told("ss_bucket_info")["mean_img_ar_error"], 0.0);
    let datasets = told("ss_datasets");
    assert!(datasets.as_array().unwrap().iter().all(|one| one["bucket_info"]["mean_img_ar_error"] == 0.0));
}

/// What one loader holds out is not trained on through another, wherever it lies.
#[test]
fn copies_of_what_is_held_out_are_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let copies = folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    for entry in std::fs::read_dir(images()).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&entry, copies.join(format!("of_{}", entry.file_name().unwrap().to_string_lossy()))).unwrap();
    }
    let text = document(&images(), "type: cacher.memory", 1)
        .replace("caption_dropout_rate: 0.3", "validation_split: { images: 3 }")
        .replace("  vae:", "  copies: { type: loader.images, path: copies, resolution: 48 }\n  vae:")
        .replace("samples: photos", "samples: [photos, copies]");
    let text = text + "  validation: { type: logger.validation, loss: loss, batch: cached.validation, passes: 1 }\n";
    let (outcome, log) = go(folder.path(), "a", &text, false);
    outcome.unwrap();
    assert!(log.has("3 images are not trained on: another loader holds the same out"), "{:?}", log.0.lock().unwrap());
    let file = pipe_data::weights::WeightFile::open(folder.path().join("a/checkpoints/t.safetensors")).unwrap();
    assert_eq!(file.header().metadata["ss_num_train_images"], "14");
}

#[test]
fn two_runs_fill_one_cache_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = format!("type: cacher.disk, folder: {}", folder.path().join("cache").display());
    let text = document(&images(), &cache, 2);
    std::thread::scope(|scope| {
        let runs: Vec<_> = ["a", "b"]
            .map(|out| (out, text.clone()))
            .into_iter()
            .map(|(out, text)| {
                let path = folder.path().to_path_buf();
                scope.spawn(move || go(&path, out, &text, false).0.unwrap())
            })
            .collect();
        for run in runs {
            run.join().unwrap();
        }
    });
    assert_eq!(result(folder.path(), "a"), result(folder.path(), "b"));
}

#[test]
fn an_image_that_does_not_decode_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for entry in std::fs::read_dir(images()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, photos.join(path.file_name().unwrap())).unwrap();
    }
    // A whole header and end and a damaged body: the check sees a picture, decoding finds it damaged.
    let victim = std::fs::read_dir(&photos)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().unwrap() == "png")
        .unwrap();
    let mut bytes = std::fs::read(&victim).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 8].iter_mut().for_each(|byte| *byte = !*byte);
    std::fs::write(&victim, &bytes).unwrap();
    let (outcome, log) = go(folder.path(), "a", &document(&photos, "type: cacher.memory", 1), false);
    outcome.unwrap();
    assert!(log.has("warning: set aside"), "{:?}", log.0.lock().unwrap());
}

#[test]
fn captions_and_folders_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let codes = |photos: &Path| -> Vec<&'static str> {
        check(folder.path(), &document(photos, "type: cacher.memory", 1)).diagnostics.iter().map(|d| d.code).collect()
    };
    let photos = folder.path().join("photos");
    assert!(codes(&photos).contains(&"P0301"), "no such folder");
    std::fs::create_dir(&photos).unwrap();
    assert!(codes(&photos).contains(&"P0306"), "an empty folder");
    std::fs::copy(images().join("laughing.png"), photos.join("a.png")).ok();
    let any = std::fs::read_dir(images())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().unwrap() == "png")
        .unwrap();
    std::fs::copy(any, photos.join("a.png")).unwrap();
    assert!(codes(&photos).contains(&"P0309"), "an image without caption");
    std::fs::write(photos.join("a.txt"), [0xff, 0xfe, 0x41]).unwrap();
    assert!(codes(&photos).contains(&"P0308"), "a caption that is not UTF-8");
    std::fs::write(photos.join("a.txt"), "a face").unwrap();
    assert_eq!(codes(&photos), ["P0333"], "one step, and files every two");
    std::fs::write(photos.join("b.png"), b"not a picture").unwrap();
    assert!(codes(&photos).contains(&"P0307"), "a file that is no picture");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let n = 4 * 4 * 8 * 8;
    let mut latents = vec![0.5f32; n];
    latents[3 * 4 * 8 * 8] = f32::NAN; // row 3: the second step with batches of two
    let tensor = |name: &str, shape: Vec<usize>, values: Vec<f32>| TensorOut::f32(name, DType::F32, shape, values);
    let tensors = [
        tensor("latents", vec![4, 4, 8, 8], latents),
        tensor("noise", vec![4, 4, 8, 8], vec![0.1; n]),
        tensor("timesteps", vec![4], vec![10.0, 20.0, 30.0, 40.0]),
        tensor("context", vec![4, 77, 16], vec![0.2; 4 * 77 * 16]),
    ];
    write_safetensors(folder.path().join("rows.safetensors"), tensors, &Default::default()).unwrap();
    let text = "version: 1\nname: t\ntrain: { device: cpu, steps: 4, batch_size: 2, save_state: { steps: 1 } }\nnodes:\n  \
        rows: { type: loader.replay, path: rows.safetensors }\n  \
        unet: { type: model.sd1, init: { widths: [16, 16], layers: 1, heads: 2, context_dim: 16, norm_groups: 4 } }\n  \
        lora: { type: adapter.lora, model: unet, rank: 2 }\n  \
        loss: { type: loss.diffusion, model: lora, batch: rows }\n  \
        adamw: { type: optimizer.adamw, loss: loss }\n  \
        save: { type: saver.adapter, adapter: lora, update: adamw, every: { steps: 1 } }\n";
    let (outcome, _) = go(folder.path(), "a", text, false);
    let error = outcome.unwrap_err();
    assert_eq!(error.code, "P0901");
    assert!(error.message.contains("step 2") && error.message.contains("`row 3`"), "{}", error.message);
    assert!(folder.path().join("a/checkpoints/t-step00000001.safetensors").is_file(), "the good file is kept");
    assert!(folder.path().join("a/state").read_dir().unwrap().count() >= 1, "the good state is kept");
}

#[test]
fn a_run_whose_weights_changed_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let text = document(&images(), "type: cacher.memory", 2);
    go(folder.path(), "a", &text, false).0.unwrap();
    let other = text.replace("widths: [8, 8], layers: 1", "widths: [8, 8], seed: 5, layers: 1");
    let (outcome, _) = go(folder.path(), "a", &other.replace("steps: 2", "steps: 4"), true);
    assert_eq!(outcome.unwrap_err().code, "P0908");
    let (outcome, _) = go(folder.path(), "a", &text.replace("steps: 2,", "steps: 4,"), true);
    assert_eq!(outcome.unwrap().position.step, 4, "more steps are allowed");
}

/// A square picture, white in its first columns and black in the others.
fn half(side: usize, white: usize) -> Rgb8 {
    let mut image = Rgb8::new(side, side);
    for (i, x) in image.pixels.iter_mut().enumerate() {
        *x = if i / 3 % side < white { 255 } else { 0 };
    }
    image
}

/// Two pictures with captions, and masks of other sizes.
fn masked(folder: &Path, white: usize) {
    for (name, side) in [("a", 64), ("b", 32)] {
        for sub in ["photos", "masks"] {
            std::fs::create_dir_all(folder.join(sub)).unwrap();
        }
        let photo = images().join(if name == "a" { "laughing.png" } else { "hushed.png" });
        std::fs::copy(photo, folder.join("photos").join(format!("{name}.png"))).unwrap();
        std::fs::write(folder.join("photos").join(format!("{name}.txt")), "a face").unwrap();
        png::write(folder.join("masks").join(format!("{name}.png")), &half(side, side * white / 64), &[]).unwrap();
    }
}

#[test]
fn masks_are_cut_as_their_images_and_kept_at_the_size_of_latents() {
    let folder = tempfile::tempdir().unwrap();
    masked(folder.path(), 24);
    let cache = folder.path().join("cache");
    let text = document(Path::new("photos"), &format!("type: cacher.disk, folder: {}", cache.display()), 1);
    let plain = text.replace("caption_dropout_rate: 0.3", "masks: masks");
    go(folder.path(), "a", &plain, false).0.unwrap();
    let mut found: Vec<Vec<f32>> = Vec::new();
    for part in std::fs::read_dir(&cache).unwrap() {
        for entry in std::fs::read_dir(part.unwrap().path()).unwrap() {
            let file = pipe_data::weights::WeightFile::open(entry.unwrap().path()).unwrap();
            if file.info("value").unwrap().shape == [16, 16] {
                found.push(file.f32("value").unwrap());
            }
        }
    }
    // 24 of 64 columns are 6 of 16, on the other side where the image is mirrored. Both files say the same, but they are
    // not the same bytes.
    let columns = |from: usize, to: usize| -> Vec<f32> {
        (0..256).map(|i| if (from..to).contains(&(i % 16)) { 1.0 } else { 0.0 }).collect()
    };
    let (plain, mirrored) = (columns(0, 6), columns(10, 16));
    assert_eq!(found.iter().filter(|mask| **mask == plain).count(), 2, "{found:?}");
    assert_eq!(found.iter().filter(|mask| **mask == mirrored).count(), 2);
    assert_eq!(found.len(), 4);

    // Other masks are other entries: what was cached of the old ones is not used.
    masked(folder.path(), 32);
    let other = text.replace("caption_dropout_rate: 0.3", "masks: masks");
    let (outcome, log) = go(folder.path(), "a", &other.replace("steps: 1", "steps: 2"), true);
    assert_eq!(outcome.unwrap_err().code, "P0908", "the data changed");
    assert!(!log.has("encode images"), "the images did not");
}

/// A document on weights that were trained, so that a step changes something.
fn trained(photos: &str, steps: u64) -> String {
    let fixture = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures/diffusers_dir");
    document(Path::new("photos"), "type: cacher.memory", steps)
        .replace("caption_dropout_rate: 0.3", photos)
        .replace(
            "init: { widths: [16, 16], layers: 1, heads: 2, context_dim: 16, norm_groups: 4 }",
            &format!("weights: {}", fixture.display()),
        )
        .replace("init: { width: 16, layers: 1, heads: 2 }", "init: { width: 24, layers: 1, heads: 2 }")
        .replace("learning_rate: 1e-2", "learning_rate: 1e-2, weight_decay: 0.0")
}

/// The up factors of a saved LoRA.
fn ups(folder: &Path, out: &str) -> Vec<f32> {
    let file = pipe_data::weights::WeightFile::open(folder.join(out).join("checkpoints/t.safetensors")).unwrap();
    let mut names: Vec<&str> = file.names().filter(|name| name.ends_with("lora_up.weight")).collect();
    names.sort_unstable();
    assert!(!names.is_empty());
    names.iter().flat_map(|name| file.f32(name).unwrap()).collect()
}

#[test]
fn nothing_is_learned_where_a_mask_is_black() {
    let folder = tempfile::tempdir().unwrap();
    masked(folder.path(), 0);
    let text = trained("masks: masks", 2);
    go(folder.path(), "a", &text, false).0.unwrap();
    assert!(ups(folder.path(), "a").iter().all(|x| *x == 0.0));
    // With a floor it is.
    let text = text.replace("noise_offset: 0.05", "noise_offset: 0.05, mask: { floor: 0.5 }");
    go(folder.path(), "b", &text, false).0.unwrap();
    assert!(ups(folder.path(), "b").iter().any(|x| *x != 0.0));
}

#[test]
fn regularization_images_are_as_many_as_the_others() {
    let folder = tempfile::tempdir().unwrap();
    masked(folder.path(), 64);
    let text = document(&images(), "type: cacher.memory", 1)
        .replace("steps: 1, batch_size: 3, accumulate: 2", "epochs: 1, batch_size: 1")
        .replace(
            "  vae:",
            "  others: { type: loader.images, path: photos, resolution: 32, regularization: { weight: 0.5 } }\n  vae:",
        )
        .replace("samples: photos", "samples: [photos, others]");
    let (outcome, _) = go(folder.path(), "a", &text, false);
    assert_eq!(outcome.unwrap().position.step, 20, "ten of each kind");
    let file = pipe_data::weights::WeightFile::open(folder.path().join("a/checkpoints/t.safetensors")).unwrap();
    let metadata = &file.header().metadata;
    assert_eq!((&metadata["ss_num_train_images"][..], &metadata["ss_num_reg_images"][..]), ("10", "10"));
    assert_eq!(metadata["ss_prior_loss_weight"], "0.5");
    assert_eq!(metadata["ss_reg_dataset_dirs"], r#"{"photos":{"n_repeats":1,"img_count":2}}"#);
    // Of several folders each is told by itself.
    let datasets: serde_json::Value = serde_json::from_str(&metadata["ss_datasets"]).unwrap();
    let told =
        |at: &str| datasets.as_array().unwrap().iter().map(|one| one.pointer(at).unwrap().clone()).collect::<Vec<_>>();
    assert_eq!(told("/num_train_images"), [10, 0]);
    assert_eq!(told("/num_reg_images"), [0, 10]);
    assert_eq!(told("/resolution"), vec![serde_json::json!([32, 32]); 2]);
    assert_eq!(told("/subsets/0/is_reg"), [false, true]);
    assert_eq!(told("/subsets/0/flip_aug"), [true, false]);
    assert_eq!(told("/subsets/0/image_dir"), ["heldout", "photos"]);
}

/// Captions with the class in place of the trigger are cached as well, and used.
#[test]
fn a_class_is_preserved_from_its_own_captions() {
    let folder = tempfile::tempdir().unwrap();
    masked(folder.path(), 64);
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(format!("photos/{name}.txt")), "a sks face").unwrap();
    }
    let plain = trained("repeats: 1", 3);
    let kept = trained("preserve_class: { trigger: sks face, class: face }", 3);
    let (outcome, log) = go(folder.path(), "a", &kept, false);
    outcome.unwrap();
    assert!(log.has("encode captions 3/3"), "with trigger, with class, and the empty one");
    go(folder.path(), "b", &plain, false).0.unwrap();
    assert!(ups(folder.path(), "a") != ups(folder.path(), "b"));
    // Images that are to stay as they are: nothing is learned of them.
    let dropouts = ", dropout: 0.1, rank_dropout: 0.1, module_dropout: 0.1";
    let still = trained("preserve_output: true", 3).replace(dropouts, "");
    go(folder.path(), "c", &still, false).0.unwrap();
    assert!(ups(folder.path(), "c").iter().all(|x| *x == 0.0));
    assert!(ups(folder.path(), "b").iter().any(|x| *x != 0.0));
    // The plan knows the passes: one forward more, or that and everything a second time.
    let flops = |text: &str| {
        let plan = plan_document(&pipe_nodes::registry(), &check(folder.path(), text));
        plan.nodes["adamw"].plan.step_flops as f64
    };
    let (plain, kept, still) = (flops(&plain), flops(&kept), flops(&still));
    assert!(still > 1.1 * plain && still < 1.7 * plain, "{}", still / plain);
    assert!((kept - plain - still).abs() < 1e-3 * kept, "{} {}", kept / plain, still / plain);
}
