//! Whole runs: what they leave behind, stopped cleanly or killed anywhere, and how near the plan came.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::support::{Ran, command, folder, fresh, images, pipe_in, tiny};

pub const STEPS: u32 = 24;

pub fn train(dir: &Path, args: &[&str]) -> Ran {
    pipe_in(dir, &[&["run", "tiny.yaml"], args].concat())
}

pub fn start(dir: &Path, args: &[&str]) -> Child {
    let mut command = command(dir);
    command.args(["run", "tiny.yaml"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pipe starts")
}

pub fn steps_done(dir: &Path, run: &str) -> usize {
    fs::read_to_string(dir.join("runs").join(run).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits until `steps` steps are in the metrics; false when the run ended before.
pub fn wait_for(child: &mut Child, dir: &Path, run: &str, steps: usize) -> bool {
    let begun = Instant::now();
    while steps_done(dir, run) < steps {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step {steps} within two minutes");
        if child.try_wait().expect("the child can be asked").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The metrics of a run without what a clock says.
pub fn metrics(folder: &Path) -> Vec<Json> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("the metrics are there");
    let strip = |line: &str| {
        let mut value: Json = serde_json::from_str(line).expect("a line is an object");
        value.as_object_mut().expect("a line is an object").remove("seconds");
        value
    };
    text.lines().map(strip).collect()
}

/// The tensors of a safetensors file as bytes, metadata apart.
fn tensors(path: &Path) -> (Json, Vec<u8>) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Json = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    header.as_object_mut().expect("a header").remove("__metadata__");
    (header, bytes[8 + length..].to_vec())
}

/// What the report of a run says to a name.
pub fn reported<'r>(ran: &'r Ran, name: &str) -> Vec<&'r str> {
    ran.out
        .lines()
        .filter_map(|line| Some(line.strip_prefix("  ")?.strip_prefix(name)?.strip_prefix(' ')?.trim()))
        .collect()
}

/// The one LoRA that a finished run reports.
fn lora(dir: &Path, ran: &Ran) -> PathBuf {
    let found = reported(ran, "lora");
    assert_eq!(found.len(), 1, "{}", ran.out);
    dir.join(found[0])
}

/// A folder with the tiny pipeline and the unbroken run `whole` in it, which no test changes.
pub fn whole_run() -> &'static (PathBuf, Ran) {
    static WHOLE: OnceLock<(PathBuf, Ran)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let dir = fresh("e2e-whole");
        fs::write(dir.join("tiny.yaml"), tiny(STEPS)).expect("the document is written");
        let ran = train(&dir, &["--output", "runs/whole"]).expect(0);
        (dir, ran)
    })
}

#[track_caller]
pub fn assert_equal_runs(dir: &Path, whole: &Ran, other: &Ran, name: &str) {
    assert_eq!(metrics(&dir.join("runs/whole")), metrics(&dir.join("runs").join(name)), "{name}: metrics");
    let (a, b) = (tensors(&lora(dir, whole)), tensors(&lora(dir, other)));
    assert_eq!(a.0, b.0, "{name}: tensors");
    assert!(a.1 == b.1, "{name}: weights");
}

#[test]
fn a_run_leaves_what_it_reports() {
    let (dir, ran) = whole_run();
    assert!(ran.err.contains("24 steps") && ran.err.contains(&format!("step {STEPS}/{STEPS}")), "{}", ran.err);
    assert!(ran.out.contains("done: 24 steps") && reported(ran, "loss")[0].contains("→"), "{}", ran.out);
    for kind in ["lora", "metrics", "log", "preview"] {
        let found = reported(ran, kind);
        assert!(!found.is_empty() && found.iter().all(|path| dir.join(path).exists()), "{kind}: {}", ran.out);
    }
    assert_eq!(metrics(&dir.join("runs/whole")).len(), STEPS as usize);
    let (header, data) = tensors(&lora(dir, ran));
    assert!(header.as_object().is_some_and(|names| names.len() > 10) && data.iter().any(|byte| *byte != 0));

    let again = train(dir, &["--output", "runs/whole"]).expect(1);
    assert!(again.err.contains("error[P0907]") && again.err.contains("--resume"), "{}", again.err);
    assert!(again.err.contains("--> --output\n"), "at the flag that names the folder: {}", again.err);
    let inspected = pipe_in(dir, &["inspect", &lora(dir, ran).display().to_string()]).expect(0);
    assert!(inspected.out.contains("LoRA (kohya naming)"), "{}", inspected.out);
}

/// The `__metadata__` of a safetensors file.
fn metadata(path: &Path) -> std::collections::BTreeMap<String, String> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    serde_json::from_value(header["__metadata__"].clone()).expect("texts by name")
}

/// What sd-scripts writes into every adapter (the specification's §9.4), without the `ss_` before it.
const METADATA: &str = "session_id training_started_at output_name learning_rate text_encoder_lr unet_lr \
    num_train_images num_validation_images num_reg_images num_batches_per_epoch num_epochs gradient_checkpointing \
    gradient_accumulation_steps max_train_steps lr_warmup_steps lr_scheduler network_module network_dim \
    network_alpha network_dropout mixed_precision full_fp16 v2 base_model_version clip_skip max_token_length \
    cache_latents seed lowram noise_offset multires_noise_iterations multires_noise_discount adaptive_noise_scale \
    zero_terminal_snr training_comment sd_scripts_commit_hash optimizer max_grad_norm caption_dropout_rate \
    caption_dropout_every_n_epochs caption_tag_dropout_rate face_crop_aug_range prior_loss_weight min_snr_gamma \
    scale_weight_norms ip_noise_gamma debiased_estimation noise_offset_random_strength \
    ip_noise_gamma_random_strength loss_type huber_schedule huber_scale huber_c fp8_base fp8_base_unet \
    validation_seed validation_split max_validation_steps validate_every_n_epochs validate_every_n_steps \
    resize_interpolation training_finished_at steps epoch";
/// What it writes of images that come from folders without a dataset file.
const DATA: &str = "batch_size_per_device total_batch_size resolution color_aug flip_aug random_crop shuffle_caption \
    enable_bucket bucket_no_upscale min_bucket_reso max_bucket_reso keep_tokens dataset_dirs reg_dataset_dirs \
    tag_frequency bucket_info";
/// What it writes of a base model that is named, and of arguments of the adapter.
const BASE: &str = "network_args sd_model_name sd_model_hash new_sd_model_hash";
/// What it says of the model itself, without `modelspec.`.
const SPEC: &str =
    "sai_model_spec architecture implementation title resolution date prediction_type implementation_version";

fn keys<'k>(prefix: &str, names: impl IntoIterator<Item = &'k str>) -> Vec<String> {
    names.into_iter().flat_map(str::split_whitespace).map(|name| format!("{prefix}{name}")).collect()
}

#[test]
fn a_lora_says_all_that_other_programs_look_for() {
    let (dir, ran) = whole_run();
    let found = metadata(&lora(dir, ran));
    let mut expected = keys("ss_", [METADATA, DATA, BASE]);
    expected.extend(keys("modelspec.", [SPEC]));
    expected.extend(keys("sshs_", ["model_hash legacy_hash"]));
    expected.sort();
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), expected);
    let text = |key: &str| found[key].as_str();
    assert_eq!((text("ss_learning_rate"), text("ss_text_encoder_lr")), ("0.001", "None"));
    assert_eq!((text("ss_network_dim"), text("ss_network_alpha")), ("4", "4.0"));
    assert_eq!((text("ss_network_args"), text("ss_network_dropout")), (r#"{"dropout": "0.1"}"#, "0.1"));
    assert_eq!((text("ss_steps"), text("ss_seed"), text("ss_clip_skip")), ("24", "3", "None"));
    assert_eq!((text("ss_sd_model_name"), text("ss_new_sd_model_hash")), ("diffusers_dir", "IsADirectory"));
    assert_eq!((text("ss_epoch"), text("ss_num_epochs"), text("ss_output_name")), ("5", "5", "tiny"));
    assert_eq!((text("ss_enable_bucket"), text("ss_min_bucket_reso"), text("ss_keep_tokens")), ("False", "None", "0"));
    assert_eq!((text("modelspec.title"), text("modelspec.resolution")), ("tiny", "64x64"));
    assert_ne!(text("sshs_legacy_hash"), "e3b0c442", "a small file is not a file of nothing");
    // The middle of an epoch belongs to the same epoch as its end.
    let middle = metadata(&dir.join("runs/whole/checkpoints/tiny-step00000010.safetensors"));
    assert_eq!((middle["ss_steps"].as_str(), middle["ss_epoch"].as_str()), ("10", "2"));
    assert_eq!(middle["ss_session_id"], found["ss_session_id"]);
    assert_eq!(middle["ss_training_started_at"], found["ss_training_started_at"]);
    assert_ne!(middle["sshs_model_hash"], found["sshs_model_hash"]);
    assert_eq!(text("modelspec.architecture"), "stable-diffusion-v1/lora");
    assert!(text("ss_tag_frequency").contains("concept") && text("sshs_model_hash").len() == 64);
}

#[test]
fn a_text_encoder_that_learns_at_the_common_rate_is_said_to() {
    let text = tiny(1)
        .replace("model: unet, rank", "model: unet, text: clip, rank")
        .replace("samples: photos, vae: vae, text: clip", "samples: photos, vae: vae");
    let dir = folder("tiny.yaml", &text);
    let ran = train(dir.path(), &[]).expect(0);
    let found = metadata(&lora(dir.path(), &ran));
    assert_eq!((found["ss_unet_lr"].as_str(), found["ss_text_encoder_lr"].as_str()), ("0.001", "[0.001]"));
}

#[test]
fn what_the_user_says_of_a_file_is_in_it() {
    let words = "metadata: { title: Faces, author: me, tags: [face, disc], comment: a try, thumbnail: face.png, \
                 is_negative_embedding: false }";
    let (before, every) = ("update: adamw, dtype: f32, every: { steps: 2 }", "every: { steps: 1 }");
    let text = tiny(2).replace(before, &format!("update: adamw, name: faces, {every}, {words}"));
    let least = "  least: { type: saver.adapter, name: least, adapter: lora, update: adamw, metadata: false }\n";
    let dir = folder("tiny.yaml", &(text + least));
    let picture = fs::read_dir(images()).unwrap().map(|entry| entry.unwrap().path());
    let picture = picture.into_iter().find(|path| path.extension().is_some_and(|e| e == "png")).unwrap();
    fs::copy(picture, dir.path().join("face.png")).unwrap();
    train(dir.path(), &[]).expect(0);
    let saved = |name: &str| metadata(&dir.path().join("runs/tiny/checkpoints").join(name));
    let found = saved("faces.safetensors");
    let spec = |key: &str| found[&format!("modelspec.{key}")].as_str();
    assert_eq!((spec("title"), spec("author"), spec("tags")), ("Faces", "me", "face, disc"));
    assert_eq!((spec("is_negative_embedding"), found["ss_training_comment"].as_str()), ("False", "a try"));
    assert_eq!(found["ss_output_name"], "faces");
    assert!(spec("thumbnail").starts_with("data:image/png;base64,iVBOR"), "{}", spec("thumbnail"));
    let mut expected = keys("ss_", ["v2 base_model_version network_module network_dim network_alpha network_args"]);
    expected.extend(keys("modelspec.", [SPEC]));
    expected.extend(keys("sshs_", ["model_hash legacy_hash"]));
    expected.sort();
    assert_eq!(saved("least.safetensors").keys().cloned().collect::<Vec<_>>(), expected);
}

/// The tiny pipeline with all of its U-Net trained and saved in one file.
fn tiny_full(steps: u32, saver: &str) -> String {
    let text = tiny(steps)
        .replace("type: adapter.lora, model: unet, rank: 4, dropout: 0.1", "type: adapter.full, model: unet");
    let start = text.find("  save:").expect("a saver");
    let end = text.find("  preview:").expect("a preview");
    let save = format!("  save: {{ type: saver.checkpoint, model: lora, vae: vae, text: clip, {saver} }}\n");
    format!("{}{save}{}", &text[..start], &text[end..])
}

#[test]
fn a_whole_model_says_what_it_is_and_nothing_of_its_training() {
    let every = "update: adamw, format: single_file, every: { steps: 1, epochs: 1 }, keep_last: { step_files: 1 }";
    let dir = folder("tiny.yaml", &tiny_full(8, &format!("{every}, metadata: {{ license: CC0 }}")));
    train(dir.path(), &[]).expect(0);
    let checkpoints = dir.path().join("runs/tiny/checkpoints");
    let found = metadata(&checkpoints.join("tiny.safetensors"));
    let mut expected = keys("modelspec.", [SPEC, "license"]);
    expected.sort();
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), expected);
    let spec = |key: &str| found[&format!("modelspec.{key}")].as_str();
    assert_eq!((spec("architecture"), spec("prediction_type")), ("stable-diffusion-v1", "epsilon"));
    assert_eq!((spec("resolution"), spec("license"), spec("title")), ("64x64", "CC0", "tiny"));
    assert!(
        spec("implementation").contains("generative-models") && spec("implementation_version").starts_with("pipe/")
    );
    let mut names: Vec<String> =
        fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let per_epoch = ["tiny-000001.safetensors", "tiny-step00000007.safetensors", "tiny.safetensors"];
    assert_eq!(names, per_epoch);
}

/// Width and height of a PNG, and whether its text chunks hold all of some words.
fn picture(path: &Path, words: &[&str]) -> (u32, u32) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = String::from_utf8_lossy(&bytes);
    words.iter().for_each(|word| assert!(text.contains(word), "{}: no `{word}`", path.display()));
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

#[test]
fn pictures_of_a_prompts_file_are_drawn_as_it_says() {
    let text = tiny(3).replace(
        "prompts: [{ prompt: a face }]",
        "prompts: [{ prompt: a face, width: 128, seed: 11 }]\n    prompts_file: prompts.txt\n    at_start: false\n    \
         every: { steps: 2 }",
    );
    let dir = folder("tiny.yaml", &text);
    let lines = "# two\nan apple --w 32 --h 48 --d 5 --s 3 --l 2 --n blurry --ss euler_a\n\nplain\n";
    fs::write(dir.path().join("prompts.txt"), lines).unwrap();
    let ran = train(dir.path(), &[]).expect(0);
    let samples = dir.path().join("runs/tiny/samples/preview");
    let mut names: Vec<String> =
        fs::read_dir(&samples).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [2, 3].map(|step| [0, 1, 2].map(|i| format!("step{step:08}-{i:02}.png"))).concat();
    assert_eq!(names, expected, "at step 2 and at the end, none before");
    assert_eq!(picture(&samples.join(&names[0]), &["a face", "Steps: 2", "Seed: 11"]), (128, 64));
    let words = ["an apple", "Negative prompt: blurry", "Steps: 3", "Sampler: Euler a", "CFG scale: 2", "Seed: 5"];
    assert_eq!(picture(&samples.join(&names[1]), &words), (32, 48));
    // The run's seed, 3, and the number of the picture.
    assert_eq!(picture(&samples.join(&names[2]), &["plain", "Sampler: DDIM", "Seed: 5"]), (64, 64));
    assert_eq!(reported(&ran, "preview").len(), 1, "{}", ran.out);
    // The text encoder is freed for good before the model is built.
    let log = fs::read_to_string(dir.path().join("runs/tiny/run.log")).unwrap();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no `{text}`: {log}"));
    assert!(place("prepare preview") < place("free clip") && place("free clip") < place("build unet"), "{log}");
}

#[test]
fn a_preview_that_fails_comes_after_all_that_is_kept() {
    let text = tiny(4)
        .replace("save_state: { steps: 4 }", "save_state: { minutes: 600 }")
        .replace("    steps: 2\n", "    steps: 2\n    at_start: false\n    every: { steps: 2 }\n")
        .replace("every: { steps: 4 }", "every: { steps: 2 }, keep_best: held")
        .replace("  metrics:", "  held: { type: logger.validation, loss: loss, batch: cached, passes: 1, every: { steps: 2 } }\n  metrics:");
    let dir = folder("tiny.yaml", &text);
    let run = dir.path().join("runs/tiny");
    fs::create_dir_all(&run).unwrap();
    // A file where the folder of the pictures would have to be.
    fs::write(run.join("samples"), "").unwrap();
    let ran = train(dir.path(), &[]).expect(1);
    assert!(ran.err.contains("node `preview`") && ran.err.contains("error[P0903]"), "{}", ran.err);
    for kept in
        ["checkpoints/tiny-step00000002.safetensors", "checkpoints/tiny-best.safetensors", "state/step-00000002"]
    {
        assert!(run.join(kept).exists(), "{kept}: {}", ran.err);
    }
    assert!(ran.err.contains("last saved state: runs/tiny/state/step-00000002"), "{}", ran.err);
    assert_eq!(metrics(&run).len(), 2, "the numbers of the step are told");
    fs::remove_file(run.join("samples")).unwrap();
    let again = train(dir.path(), &["--resume"]).expect(0);
    assert!(again.out.contains("continued after step 2"), "{}", again.out);
    assert_eq!(metrics(&run).len(), 4);
    assert!(run.join("samples/preview/step00000002-00.png").exists(), "{}", again.err);
}

/// Killed before there is a state, a run begins again with the same command: its own files are in nobody's way.
#[test]
fn killed_before_the_first_state_a_run_begins_again() {
    let (dir, whole) = whole_run();
    let loggers = "  table: { type: logger.csv, update: adamw }\n  board: { type: logger.tensorboard, update: adamw }\n  \
                   boards: { type: logger.tensorboard, update: adamw, folder: boards }\n";
    let text =
        tiny(STEPS).replace("save_state: { steps: 4 }", "save_state: { minutes: 600 }, resume: latest") + loggers;
    fs::write(dir.join("early.yaml"), text).expect("the document is written");
    let call = |more: &[&str]| {
        let mut command = command(dir);
        command.args(["run", "early.yaml"]).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = ["--output", "runs/early"];
    let mut child = call(&output).spawn().expect("pipe starts");
    assert!(wait_for(&mut child, dir, "early", 7), "the run was over before it could be killed");
    child.kill().expect("the child can be killed");
    drop(child.wait_with_output());
    let run = dir.join("runs/early");
    // What a kill leaves of a file that was being written.
    for left in ["checkpoints/.tiny.safetensors.tmp-1-0", "checkpoints/.rehearsal-tiny.safetensors"] {
        fs::write(run.join(left), "").unwrap();
    }
    let ran = Ran::of(call(&output).output().expect("pipe starts")).expect(0);
    assert!(ran.err.contains("no saved state, so the run starts from its first step"), "{}", ran.err);
    assert_equal_runs(dir, whole, &ran, "early");
    let table = fs::read_to_string(run.join("metrics.csv")).unwrap();
    let steps: Vec<&str> = table.lines().map(|line| line.split(',').next().unwrap()).collect();
    let expected: Vec<String> = (1..=STEPS).map(|step| step.to_string()).collect();
    assert_eq!((steps[0], &steps[1..]), ("step", &expected.iter().map(String::as_str).collect::<Vec<_>>()[..]));
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().count();
    assert_eq!((files(run.join("events")), files(dir.join("boards/tiny"))), (1, 1));
    let names = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));

    // Another run of the name would write into the same folder of events, which is told before it begins.
    let check = |sets: &[&str]| pipe_in(dir, &[&["check", "early.yaml"], sets].concat());
    let other = check(&["--set", "output=runs/other"]).expect(1);
    assert!(
        other.out.contains("error[P0907]") && other.out.contains("holds the events of another run"),
        "{}",
        other.out
    );
    check(&["--set", "output=runs/early"]).expect(0);
    fs::write(dir.join("a-file"), "").unwrap();
    let file = check(&["--set", "nodes.boards.folder=a-file"]).expect(1);
    assert!(file.out.contains("is a file, so the folder"), "{}", file.out);
}

/// What a run has at its end is also there when the run is made longer.
#[test]
fn a_run_made_longer_has_the_file_of_where_it_had_ended() {
    let dir = folder("tiny.yaml", &tiny(4).replace("every: { steps: 4 }", "every: { steps: 2 }"));
    let files = dir.path().join("runs/tiny/checkpoints");
    train(dir.path(), &[]).expect(0);
    let end = tensors(&files.join("tiny.safetensors"));
    assert!(!files.join("tiny-step00000004.safetensors").exists());
    let longer = train(dir.path(), &["--resume", "--steps", "6"]).expect(0);
    assert!(tensors(&files.join("tiny-step00000004.safetensors")) == end);
    assert!(!longer.err.contains("the new end replaces it"), "{}", longer.err);
    assert!(tensors(&files.join("tiny.safetensors")) != end);
    // Of a step without a file of its own it is told.
    let odd = ["--resume", "--set", "nodes.save.every.steps=4", "--steps"];
    let longer = train(dir.path(), &[&odd[..], &["7"]].concat()).expect(0);
    assert!(longer.err.contains("tiny.safetensors` is of an earlier end of this run"), "{}", longer.err);
}

#[test]
fn killed_and_run_again_with_resume_latest_in_the_document_a_run_is_whole() {
    let (dir, whole) = whole_run();
    let text = tiny(STEPS).replace("train: {", "train: { resume: latest,");
    fs::write(dir.join("latest.yaml"), text).expect("the document is written");
    let call = || {
        let mut command = command(dir);
        command.args(["run", "latest.yaml", "--output", "runs/latest"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // The same command each time, as a queue of jobs gives it.
    for after in [2usize, 7, 15] {
        let mut child = call().spawn().expect("pipe starts");
        assert!(wait_for(&mut child, dir, "latest", after), "the run was over before it could be killed");
        child.kill().expect("the child can be killed");
        assert_eq!(Ran::of(child.wait_with_output().expect("the child ends")).code, -1);
    }
    let ran = Ran::of(call().output().expect("pipe starts")).expect(0);
    assert!(ran.out.contains("continued after step"), "{}", ran.out);
    assert_equal_runs(dir, whole, &ran, "latest");
    let again = Ran::of(call().output().expect("pipe starts")).expect(0);
    assert!(again.out.contains("were done before; nothing was trained"), "{}", again.out);
}

#[test]
fn killed_at_any_moment_a_run_continues_bit_for_bit() {
    let (dir, whole) = whole_run();
    // Where in a step the signal arrives is left to chance; where in the run is spread over it.
    for (number, after) in [1usize, 5, 9, 17].into_iter().enumerate() {
        let name = format!("killed-{number}");
        let output = format!("runs/{name}");
        let args = ["--output", output.as_str()];
        let mut child = start(dir, &args);
        assert!(wait_for(&mut child, dir, &name, after), "the run was over before it could be killed");
        std::thread::sleep(Duration::from_micros(u64::from(std::process::id()) * 7919 % 30_000));
        child.kill().expect("the child can be killed");
        let killed = Ran::of(child.wait_with_output().expect("the child ends"));
        assert_eq!(killed.code, -1, "{}", killed.err);
        let resumed = train(dir, &[&args[..], &["--resume"]].concat()).expect(0);
        assert_equal_runs(dir, whole, &resumed, &name);
    }
}

#[test]
fn a_finished_run_that_is_resumed_tells_its_results_and_changes_nothing() {
    let text = tiny(4)
        .replace("  metrics:", "  held: { type: logger.validation, loss: loss, batch: cached, passes: 1 }\n  metrics:");
    let dir = folder("tiny.yaml", &text);
    let first = train(dir.path(), &[]).expect(0);
    let run = dir.path().join("runs/tiny");
    let read = |name: &str| fs::read(run.join(name)).unwrap();
    let names = ["metrics.jsonl", "validation.jsonl", "checkpoints/tiny.safetensors"];
    let before = names.map(read);
    let again = train(dir.path(), &["--resume"]).expect(0);
    assert!(again.out.contains("done: all 4 steps were done before; nothing was trained"), "{}", again.out);
    assert!(again.err.contains("`--steps` takes more"), "{}", again.err);
    assert_eq!(reported(&again, "lora"), reported(&first, "lora"));
    assert!(names.map(read) == before, "no file of the run is changed");
    // The result is made again when it is gone.
    fs::remove_file(run.join(names[2])).unwrap();
    train(dir.path(), &["--resume"]).expect(0);
    assert_eq!(tensors(&run.join(names[2])).1.len(), tensors_of(&before[2]));
}

/// Bytes of the data of a safetensors file.
fn tensors_of(file: &[u8]) -> usize {
    file.len() - 8 - u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize
}

#[test]
fn a_state_that_is_cut_short_is_told_and_the_one_before_it_serves() {
    let dir = folder("tiny.yaml", &tiny(8));
    train(dir.path(), &[]).expect(0);
    let state = dir.path().join("runs/tiny/state");
    let file = state.join("step-00000008/state.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let ran = train(dir.path(), &["--resume"]).expect(1);
    assert!(
        ran.err.contains("error[P0909]: ") && ran.err.contains("the state of step 8 cannot be used"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("step-00000008` and resume again: the state of step 4 is kept"), "{}", ran.err);
    fs::remove_dir_all(state.join("step-00000008")).unwrap();
    let resumed = train(dir.path(), &["--resume"]).expect(0);
    assert!(resumed.out.contains("continued after step 4"), "{}", resumed.out);
}

#[test]
fn images_that_do_not_decode_are_counted_at_the_end() {
    let dir = folder("tiny.yaml", &tiny(2).replace(&images().display().to_string(), "photos"));
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for entry in fs::read_dir(images()).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, photos.join(entry.file_name().unwrap())).unwrap();
    }
    let mut pngs: Vec<PathBuf> = fs::read_dir(&photos).unwrap().map(|entry| entry.unwrap().path()).collect();
    pngs.retain(|path| path.extension().is_some_and(|extension| extension == "png"));
    pngs.sort();
    // Cut short, they are found by the check.
    let whole = fs::read(&pngs[0]).unwrap();
    fs::write(&pngs[0], &whole[..whole.len() / 2]).unwrap();
    let cut = train(dir.path(), &[]).expect(1);
    assert!(cut.err.contains("error[P0307]") && cut.err.contains("ends before its last row"), "{}", cut.err);
    fs::write(&pngs[0], &whole).unwrap();
    // Header and end are whole, so the check passes; the pixels between are not.
    for path in &pngs[..2] {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 16].fill(0x55);
        fs::write(path, &bytes).unwrap();
    }
    let ran = train(dir.path(), &[]).expect(0);
    let note =
        format!("cached: 2 of {} images could not be decoded and were set aside; run.log names them", pngs.len());
    assert_eq!(reported(&ran, "note"), [note]);
    let log = fs::read_to_string(dir.path().join("runs/tiny/run.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("set aside: ")).count(), 2, "{log}");
}

#[test]
fn a_run_that_diverges_stops_with_its_place_and_keeps_the_last_state() {
    let dir = folder("tiny.yaml", &tiny(STEPS));
    let args = ["--set", "nodes.adamw.learning_rate=10", "--set", "nodes.adamw.max_grad_norm=false"];
    let set = ["--set", "nodes.lora.alpha=1e30", "--set", "train.save_state.steps=1"];
    let ran = train(dir.path(), &[&args[..], &set[..]].concat()).expect(1);
    assert!(ran.err.contains("error[P0901]") && ran.err.contains("tiny.yaml:"), "{}", ran.err);
    assert!(ran.err.contains("step ") && ran.err.contains("log: "), "{}", ran.err);
    // The message names a few images of the batch, the log all of them: 3 in each of 2 forward passes.
    let log = fs::read_to_string(dir.path().join("runs/tiny/run.log")).unwrap();
    let batch = log.lines().find(|line| line.contains("the images of this batch: ")).unwrap_or_else(|| panic!("{log}"));
    assert_eq!(batch.matches(".png").count(), 6, "{batch}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (dir, whole) = whole_run();
    let again = train(dir, &["--output", "runs/again"]).expect(0);
    assert_equal_runs(dir, whole, &again, "again");
    let other = train(dir, &["--output", "runs/other", "--set", "seed=4"]).expect(0);
    assert!(tensors(&lora(dir, whole)).1 != tensors(&lora(dir, &other)).1);
}
