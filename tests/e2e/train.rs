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

/// What sd-scripts writes into every adapter, without the `ss_` before it.
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

#[test]
fn a_lora_says_all_that_other_programs_look_for() {
    let (dir, ran) = whole_run();
    let found = metadata(&lora(dir, ran));
    let missing: Vec<&str> =
        METADATA.split_whitespace().filter(|key| !found.contains_key(&format!("ss_{key}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let text = |key: &str| found[key].as_str();
    assert_eq!((text("ss_learning_rate"), text("ss_text_encoder_lr")), ("0.001", "None"));
    assert_eq!((text("ss_network_dim"), text("ss_network_alpha")), ("4", "4.0"));
    assert_eq!(text("ss_network_args"), r#"{"dropout": "0.1"}"#);
    assert_eq!((text("ss_steps"), text("ss_seed"), text("ss_clip_skip")), ("24", "3", "None"));
    assert_eq!(text("ss_sd_model_name"), "diffusers_dir");
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
    assert_eq!((found["ss_unet_lr"].as_str(), found["ss_text_encoder_lr"].as_str()), ("0.001", "0.001"));
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
