//! Known bugs of the reference (sd-scripts) that must not be copied, and where each is held: the numbers are those of the
//! specification's list of bugs and surprises. A test below follows that every place exists; those that had none are here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::check::{Checked, Options, check_document_with, check_text};
use pipe_core::document::{Document, Syntax};
use pipe_core::execute::{RunOptions, Status, run};
use pipe_core::plan::plan_document;
use pipe_core::run::{Progress, StopFlag};
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

/// Where a bug is held.
enum Held {
    /// A test function in a file.
    Test(&'static str, &'static str),
    /// A test that a macro makes of a line `name: …;` in a file.
    Made(&'static str, &'static str),
    /// A case of `tests/diagnostics/nodes`.
    Case(&'static str),
    /// There is no such option: a document that has it is refused.
    NoField(&'static str),
}
use Held::{Case, Made, NoField, Test};

const HERE: &str = "nodes/tests/reference_bugs.rs";
const ADAPTERS: &str = "nodes/tests/adapters.rs";
const RESUME: &str = "nodes/tests/resume.rs";
const TRAJECTORY: &str = "nodes/tests/trajectory.rs";
const NETWORKS: &str = "nodes/networks/tests/families.rs";
const FORMULAS: &str = "nodes/train/tests/objectives.rs";

const HELD: [(u32, &str, &[Held]); 52] = [
    (1, "split layers of FLUX cannot be built", &[Test(ADAPTERS, "split_layers_are_saved_for_every_reader")]),
    (
        2,
        "α of merged split layers; their norms and rank dropout",
        &[
            Test("nodes/networks/src/adapters/file.rs", "parts_keep_their_scale"),
            Test(HERE, "split_layers_have_norms_and_dropouts"),
        ],
    ),
    (3, "targets of one network leak into the next", &[Test(HERE, "documents_do_not_know_of_each_other")]),
    (
        4,
        "the text encoder's training ends with a crash",
        &[Test("nodes/tests/text_stop.rs", "what_was_learned_stays"), Case("text-stop-late")],
    ),
    (5, "weights of samples are mixed over the batch", &[Test(TRAJECTORY, "what_a_loss_weighs_and_preserves")]),
    (6, "split layers of Lumina", &[Case("adapter-split-qkv"), Case("adapter-split-qkv-lumina")]),
    (
        7,
        "α of a file is saved but not used",
        &[Test(TRAJECTORY, "twenty_steps_of_a_lora"), Case("adapter-alpha-of-file")],
    ),
    (8, "α is saved as a whole number", &[Test(HERE, "alpha_is_saved_as_a_fraction")]),
    (
        9,
        "DyLoRA's ranks, recomputation and names",
        &[
            Test(ADAPTERS, "dylora_is_a_lora_in_its_file"),
            Test(HERE, "dylora_measures_with_every_rank"),
            Case("adapter-dylora-unit"),
        ],
    ),
    (
        10,
        "numbers and lists of block rates",
        &[
            Test(ADAPTERS, "rates_by_factor_and_block"),
            Test(ADAPTERS, "ranks_by_type_block_and_pattern"),
            Case("adapter-block-list"),
            Case("adapter-rates-list"),
        ],
    ),
    (
        11,
        "ranks of a file silence dropouts and LoRA+",
        &[Case("adapter-from-file"), Test(HERE, "dropouts_act_on_ranks_of_a_file")],
    ),
    (
        12,
        "what does not learn counts in the clipping",
        &[Test(ADAPTERS, "twenty_steps_of_every_kind"), Case("optimizer-text-rate-zero")],
    ),
    (13, "OFT's switches and constraint", &[Test(ADAPTERS, "twenty_steps_of_every_kind"), Case("adapter-oft-blocks")]),
    (
        14,
        "LoRA+ with estimated rates",
        &[Case("optimizer-prodigy-lora-plus"), Case("optimizer-prodigy-rates"), Case("optimizer-dadapt-rates")],
    ),
    (
        15,
        "rates that do not exist",
        &[
            Case("optimizer-text-rate-of-another"),
            NoField("text_encoder_lr1"),
            Test(HERE, "what_has_no_field_is_refused"),
        ],
    ),
    (16, "fused groups under accumulation", &[Case("fused-accumulate"), NoField("fused_optimizer_groups")]),
    (
        17,
        "two fused modes train one group",
        &[
            Test("nodes/tests/fused_backward.rs", "every_family_learns_the_same"),
            Case("fused-adapter"),
            NoField("blockwise_fused_optimizers"),
        ],
    ),
    (
        18,
        "Nesterov without Nesterov, D-Adaptation that is its preprint",
        &[Test("nodes/train/tests/optimizers.rs", "fifty_steps_as_published")],
    ),
    (
        19,
        "schedules that always fail, warm-ups that multiply the run",
        &[
            Case("optimizer-plateau"),
            Case("optimizer-warmup-ratio"),
            Test("nodes/train/src/schedule/tests.rs", "lengths_and_orders_are_checked"),
        ],
    ),
    (
        20,
        "the end of `polynomial` in groups with other rates",
        &[
            Test(FORMULAS, "learning_rates_at_every_step"),
            Test("nodes/tests/text_stop.rs", "groups_follow_one_schedule"),
        ],
    ),
    (
        21,
        "Adafactor's own steps void every rate",
        &[Case("optimizer-adafactor-rate"), Case("optimizer-adafactor-group"), Case("optimizer-adafactor-schedule")],
    ),
    (
        22,
        "schedule-free weights that are not averaged",
        &[
            Test(RESUME, "schedule_free_saves_averages_and_trains_on"),
            Test(RESUME, "schedule_free_saves_averages_of_whole_models"),
            Case("optimizer-schedule-free-norms"),
        ],
    ),
    (23, "a short last accumulation counts less", &[Test(HERE, "a_short_last_accumulation_is_a_mean_of_its_own")]),
    (
        24,
        "the launcher's precision is overridden",
        &[Test("migrate/tests/it/rules.rs", "the_launcher_does_not_decide_in_silence")],
    ),
    (
        25,
        "half weights by surprise",
        &[Test(RESUME, "small_updates_of_bf16_weights_are_not_lost"), Case("full-rounding")],
    ),
    (
        26,
        "an autoencoder in half precision",
        &[Test(HERE, "the_autoencoder_is_in_full_precision"), NoField("no_half_vae")],
    ),
    (27, "rounded timesteps", &[Test("nodes/networks/src/embed.rs", "known_values")]),
    (28, "checkpointing switches dropout on", &[Test("nodes/tests/sd3_options.rs", "checkpointing_changes_nothing")]),
    (29, "freezing tensors for blocks", &[Test("nodes/tests/full_blocks.rs", "the_last_blocks_stay")]),
    (
        30,
        "swapped blocks that are not updated",
        &[
            Test("tests/e2e/plans.rs", "the_plan_tells_the_device_from_the_host"),
            Test("migrate/tests/it/rules.rs", "kinds"),
        ],
    ),
    (
        31,
        "offloading that ends in a type error",
        &[
            Test("nodes/networks/tests/stored.rs", "blocks_may_rest_away_from_the_device"),
            Test("migrate/tests/it/coverage.rs", "no_option_of_the_command_line_is_passed_over"),
        ],
    ),
    (32, "counters that restart", &[Test("tests/e2e/train.rs", "killed_at_any_moment_a_run_continues_bit_for_bit")]),
    (33, "every epoch again after a stop", &[Made(RESUME, "adamw"), Test(RESUME, "weights_in_bf16_continue_too")]),
    (34, "a hash of nothing", &[Test("nodes/data/tests/writer.rs", "hashes_as_the_reference_computes_them")]),
    (35, "words of modelspec", &[Test("nodes/data/src/weights/metadata/base.rs", "words_of_each_family")]),
    (36, "epochs counted from 0 and from 1", &[Test(HERE, "epochs_are_counted_alike_in_every_file")]),
    (
        37,
        "parts that are not saved",
        &[
            Test("nodes/tests/families.rs", "whole_models_in_every_layout"),
            Test(HERE, "what_learns_at_a_rate_of_zero_is_saved"),
            Test(HERE, "what_has_no_field_is_refused"),
        ],
    ),
    (
        38,
        "values without type, secrets in files",
        &[
            Test("tests/e2e/documents.rs", "five_mistakes_are_five_errors_each_at_its_line"),
            Test("migrate/src/args.rs", "secrets_are_hidden"),
            Test(HERE, "what_has_no_field_is_refused"),
        ],
    ),
    (
        39,
        "options of U-Nets on flow models",
        &[Case("loss-flow-foreign"), Test("nodes/train/src/flow/sampling.rs", "options_without_effect_are_refused")],
    ),
    (40, "weights of another schedule", &[Test("nodes/tests/losses.rs", "weights_by_the_signal_to_noise_ratio")]),
    (
        41,
        "the Huber scale, and the Huber loss of flow models",
        &[Test("nodes/train/src/loss/huber.rs", "options_without_effect_are_refused")],
    ),
    (
        42,
        "a prediction that does not fit its target",
        &[
            Test("nodes/train/src/flow/objective.rs", "a_perfect_model_has_no_loss"),
            Test("nodes/tests/losses.rs", "flow_predictions_and_weights"),
        ],
    ),
    (
        43,
        "an infinite weight at σ = 0",
        &[
            Test("nodes/train/src/flow/sampling.rs", "whole_timesteps_never_reach_zero"),
            Test(FORMULAS, "flow_timesteps_and_weights"),
        ],
    ),
    (
        44,
        "masks and weights that full fine-tuning ignores",
        &[Test(HERE, "masks_and_weights_count_in_full_fine_tuning")],
    ),
    (
        45,
        "attention masks that act on some outputs",
        &[
            Test(NETWORKS, "flux_dev_and_schnell"),
            Test(NETWORKS, "t5_with_and_without_mask"),
            Test("nodes/tests/families.rs", "sd3_hides_padding_cached_and_live"),
        ],
    ),
    (46, "heads of SD3.5 Medium's second attention", &[Test(NETWORKS, "sd3_and_sd35")]),
    (
        47,
        "noise that depends on the batch",
        &[Test("nodes/train/src/ddpm/noise.rs", "pyramid_noise_has_unit_variance_and_low_frequencies")],
    ),
    (
        48,
        "an option without effect",
        &[
            Test(HERE, "what_has_no_field_is_refused"),
            Test("migrate/tests/it/coverage.rs", "no_option_of_the_command_line_is_passed_over"),
        ],
    ),
    (49, "rates logged twice", &[Test("nodes/src/optimizer/groups.rs", "parts_and_own_rates_make_groups")]),
    (50, "one number under two names", &[Test("tests/e2e/train.rs", "a_run_leaves_what_it_reports")]),
    (51, "previews without prompts", &[Case("preview-no-prompts")]),
    (
        52,
        "validation on other numbers each time",
        &[
            Test(HERE, "validation_measures_the_same_each_time"),
            Test("nodes/tests/families.rs", "every_family_measures_the_same_each_time"),
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

#[test]
fn every_bug_of_the_list_is_held_somewhere() {
    let registry = pipe_nodes::registry();
    for (place, (number, what, held)) in HELD.iter().enumerate() {
        assert_eq!(*number as usize, place + 1, "{what}");
        assert!(!held.is_empty(), "{number}: {what}");
        for held in *held {
            match held {
                Test(file, name) => {
                    let text =
                        std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{number}: {file}: {e}"));
                    let test = text
                        .split("#[test]")
                        .skip(1)
                        .any(|after| after.trim_start().starts_with(&format!("fn {name}()")));
                    assert!(test, "{number} ({what}): no test `{name}` in {file}");
                }
                Made(file, name) => {
                    let text =
                        std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{number}: {file}: {e}"));
                    let made =
                        text.contains("#[test]\n        fn $name()") && text.contains(&format!("\n    {name}: \""));
                    assert!(made, "{number} ({what}): {file} makes no test `{name}`");
                }
                Case(name) => {
                    let path = root().join(format!("tests/diagnostics/nodes/{name}.md"));
                    let text =
                        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{number}: {}: {e}", path.display()));
                    assert!(text.contains("error[P"), "{number} ({what}): {name} reports nothing");
                }
                NoField(name) => {
                    let field = format!("\"{name}\":");
                    let has = |node: &&str| registry.node_schema(node).to_string().contains(&field);
                    let node = registry.names().find(has);
                    assert!(node.is_none(), "{number} ({what}): {node:?} has a field `{name}` now");
                }
            }
        }
    }
}

struct Quiet;

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

fn fixture(path: &str) -> String {
    root().join("tests/fixtures").join(path).display().to_string()
}

fn check(folder: &Path, text: &str) -> Checked {
    let checked = check_text(&pipe_nodes::registry(), text, &folder.join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    assert!(checked.ok(), "{}", pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false));
    checked
}

/// Runs a document; gives the metrics of each step.
fn train(folder: &Path, text: &str) -> Vec<serde_json::Value> {
    let options =
        RunOptions { folder: folder.join("out"), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    let outcome = run(&pipe_nodes::registry(), &check(folder, text), options).unwrap();
    assert_eq!(outcome.status, Status::Finished);
    let metrics = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn numbers(metrics: &[serde_json::Value], name: &str) -> Vec<f64> {
    metrics.iter().map(|m| m[name].as_f64().unwrap()).collect()
}

/// A document on the rows of SD 1.x's trajectory, or on others.
fn document(train: &str, rows: &str, adapter: &str, optimizer: &str, more: &str) -> String {
    format!(
        "version: 1\nname: case\ntrain: {{ device: cpu, {train} }}\nnodes:\n  \
         rows: {{ type: loader.replay, path: {rows} }}\n  unet: {{ type: model.sd1, weights: {} }}\n  \
         learn: {{ model: unet, {adapter} }}\n  loss: {{ type: loss.diffusion, model: learn, batch: rows }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, {optimizer} }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n{more}",
        fixture("diffusers_dir"),
    )
}

fn replay() -> String {
    fixture("lora_trajectory/replay.safetensors")
}

const SAVE: &str = "  save: { type: saver.adapter, adapter: learn, update: adamw, every: { steps: 1 } }\n";

/// The first rows of the trajectory, with more tensors.
fn first_rows(folder: &Path, rows: usize, more: Vec<TensorOut>) -> String {
    let file = WeightFile::open(replay()).unwrap();
    let cut = |name: &str| {
        let mut shape = file.info(name).unwrap().shape.clone();
        let values =
            file.i64(name).map(|v| v.into_iter().map(|x| x as f32).collect()).or_else(|_| file.f32(name)).unwrap();
        let span = values.len() / shape[0];
        shape[0] = rows;
        TensorOut::f32(name, DType::F32, shape, values[..rows * span].to_vec())
    };
    let tensors: Vec<TensorOut> = file.names().map(cut).chain(more).collect();
    let path = folder.join("rows.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    path.display().to_string()
}

/// 2. The limit holds for layers whose parts learn by themselves, and rank dropout acts on each part.
#[test]
fn split_layers_have_norms_and_dropouts() {
    let document = |adapter: &str| {
        format!(
            "version: 1\nname: case\ntrain: {{ device: cpu, steps: 3, batch_size: 2 }}\nnodes:\n  \
             rows: {{ type: loader.replay, path: {} }}\n  model: {{ type: model.flux, weights: {} }}\n  \
             learn: {{ model: model, type: adapter.lora, rank: 4, split_qkv: true, {adapter} }}\n  \
             loss: {{ type: loss.flow, model: learn, batch: rows }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-2 }}\n  \
             metrics: {{ type: logger.metrics, update: adamw }}\n",
            fixture("lora_trajectory_flux/replay.safetensors"),
            fixture("flux"),
        )
    };
    let run = |adapter: &str| train(tempfile::tempdir().unwrap().path(), &document(adapter));
    let limited = run("scale_weight_norms: 0.01");
    assert!(numbers(&limited, "norms_scaled").iter().all(|n| *n > 0.0));
    assert!(numbers(&limited, "norm_largest").iter().all(|n| *n <= 0.01 * (1.0 + 1e-5)));
    let (with, without) = (numbers(&run("rank_dropout: 0.5"), "loss"), numbers(&run("rank_dropout: 0.0"), "loss"));
    // An adapter that adds nothing yet has the same first loss; then the dropped ranks show.
    assert_eq!(with[0], without[0]);
    assert_ne!(with[2], without[2]);
}

/// 3. Convolutions of one document are not in the next.
#[test]
fn documents_do_not_know_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let modules = |adapter: &str| {
        let text = document("steps: 1", &replay(), adapter, "learning_rate: 1e-3", "");
        let plan = plan_document(&pipe_nodes::registry(), &check(folder.path(), &text));
        plan.nodes["learn"].plan.notes[0].clone()
    };
    let plain = modules("type: adapter.lora, rank: 2");
    assert!(plain.starts_with("192 modules"), "{plain}");
    let all = format!(
        "type: adapter.lora, rank: 2, conv: {{ rank: 2 }}, base_weights: [{{ path: {} }}]",
        fixture("lora_trajectory/init.safetensors")
    );
    assert!(modules(&all).starts_with("278 modules"));
    assert_eq!(modules("type: adapter.lora, rank: 2"), plain);
}

/// 8. f32, also where α is the rank.
#[test]
fn alpha_is_saved_as_a_fraction() {
    let folder = tempfile::tempdir().unwrap();
    let save = SAVE.replace("every", "dtype: f32, every");
    train(folder.path(), &document("steps: 1", &replay(), "type: adapter.lora, rank: 2", "learning_rate: 1e-3", &save));
    let file = WeightFile::open(folder.path().join("out/checkpoints/case.safetensors")).unwrap();
    let alphas: Vec<&str> = file.names().filter(|name| name.ends_with(".alpha")).collect();
    assert_eq!(alphas.len(), 192);
    assert!(alphas.iter().all(|name| file.info(name).unwrap().dtype == DType::F32 && file.f32(name).unwrap() == [2.0]));
}

/// 11. Dropouts of the document act whoever tells the ranks.
#[test]
fn dropouts_act_on_ranks_of_a_file() {
    let first = |adapter: &str| {
        let adapter = format!(
            "type: adapter.lora, rank: from_file, weights: {}{adapter}",
            fixture("lora_trajectory/init.safetensors")
        );
        let text = document("steps: 1, batch_size: 2", &replay(), &adapter, "learning_rate: 1e-3", "");
        numbers(&train(tempfile::tempdir().unwrap().path(), &text), "loss")[0]
    };
    let plain = first("");
    for dropout in ["dropout: 0.5", "rank_dropout: 0.5", "module_dropout: 0.5"] {
        assert_ne!(first(&format!(", {dropout}")), plain, "{dropout}");
    }
}

/// 15, 37, 38, 48. What the reference has no option for, or one that does nothing, is an error at its place, in a node and
/// in the settings, and not read as something else.
#[test]
fn what_has_no_field_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = document("steps: 1", &replay(), "type: adapter.lora, rank: 2", "learning_rate: 1e-3", SAVE);
    check(folder.path(), &text);
    for (place, field) in [
        ("type: optimizer.adamw,", "text_encoder_lr1: 1e-5"),
        ("type: saver.adapter,", "save_clip: true"),
        ("type: saver.adapter,", "huggingface_token: secret"),
        ("type: model.sd1,", "no_token_padding: true"),
        ("device: cpu,", "huggingface_token: secret"),
    ] {
        let text = text.replace(place, &format!("{place} {field},"));
        let checked = check_text(&pipe_nodes::registry(), &text, &folder.path().join("run.yaml"), Syntax::Yaml, &[]);
        let found: Vec<_> = checked.diagnostics.iter().map(|d| (d.code, checked.files().text(d.span))).collect();
        assert_eq!(found, [("P0104", field.split(':').next().unwrap())], "{field}");
        // The value is nobody's business.
        assert!(!checked.diagnostics[0].message.contains("secret"));
    }
}

/// Number 26: the autoencoder is in f32 whatever the precision of training is; a CPU, which tests have, computes in no other, so
/// the plan for a GPU tells.
#[test]
fn the_autoencoder_is_in_full_precision() {
    let folder = tempfile::tempdir().unwrap();
    let planned = |precision: &str| {
        let text = format!(
            "version: 1\nname: case\ntrain: {{ device: cuda, precision: {precision}, steps: 1 }}\nnodes:\n  \
             photos: {{ type: loader.images, path: {}, resolution: 32 }}\n  \
             vae: {{ type: encoder.vae, init: {{ widths: [8, 8], layers: 1, norm_groups: 4 }} }}\n  \
             clip: {{ type: encoder.clip_l, init: {{ width: 16, layers: 1, heads: 2 }} }}\n  \
             cached: {{ type: cacher.memory, samples: photos, vae: vae, text: clip }}\n  \
             unet: {{ type: model.sd1, init: {{ widths: [16, 16], layers: 1, heads: 2, context_dim: 16, norm_groups: 4 }} }}\n  \
             lora: {{ type: adapter.lora, model: unet, rank: 2 }}\n  \
             loss: {{ type: loss.diffusion, model: lora, batch: cached }}\n  \
             adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-3 }}\n  \
             save: {{ type: saver.adapter, adapter: lora, update: adamw }}\n",
            root().join("pipelines/quickstart/images/heldout").display(),
        );
        let document = Document::parse(&text, folder.path().join("run.yaml"), Syntax::Yaml, &[]);
        let options = Options { without_files: false, any_device: true };
        let checked = check_document_with(&pipe_nodes::registry(), document, options);
        assert!(checked.ok(), "{:?}", checked.diagnostics);
        let plan = plan_document(&pipe_nodes::registry(), &checked);
        ["vae", "unet"].map(|node| format!("{:?}", plan.nodes[node].plan))
    };
    let ([vae, unet], [vae_half, unet_half]) = (planned("f32"), planned("bf16"));
    assert_ne!(unet, unet_half, "the model is in bf16");
    assert_eq!(vae, vae_half);
}

/// 37. What learns at a rate of 0 is trained and saved.
#[test]
fn what_learns_at_a_rate_of_zero_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!("type: adapter.lora, rank: 4, weights: {}", fixture("lora_trajectory/init.safetensors"));
    let save = SAVE.replace("every", "dtype: f32, every");
    train(folder.path(), &document("steps: 1", &replay(), &adapter, "learning_rate: 0.0", &save));
    let saved = WeightFile::open(folder.path().join("out/checkpoints/case.safetensors")).unwrap();
    let given = WeightFile::open(fixture("lora_trajectory/init.safetensors")).unwrap();
    assert_eq!(saved.names().len(), given.names().len());
    assert!(given.names().all(|name| saved.f32(name).unwrap() == given.f32(name).unwrap()));
}

/// 23. Three rows in steps of two: the second step is the third row alone, and weighs as much as any step.
#[test]
fn a_short_last_accumulation_is_a_mean_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let rows = first_rows(folder.path(), 3, Vec::new());
    let run = |settings: &str| {
        // Too small to move anything; of a group that does not learn no norm is told.
        let text = document(settings, &rows, "type: adapter.lora, rank: 2", "learning_rate: 1e-30", "");
        let metrics = train(tempfile::tempdir().unwrap().path(), &text);
        (numbers(&metrics, "loss"), numbers(&metrics, "grad_norm"))
    };
    let (single, joined) = (run("steps: 3"), run("steps: 2, accumulate: 2"));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
    near(joined.0[0], (single.0[0] + single.0[1]) / 2.0);
    near(joined.0[1], single.0[2]);
    near(joined.1[1], single.1[2]);
}

/// 36. A file saved in the middle of the second epoch says 2, and so does the one at its end.
#[test]
fn epochs_are_counted_alike_in_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let rows = first_rows(folder.path(), 2, Vec::new());
    let adapter = "type: adapter.lora, rank: 2";
    train(folder.path(), &document("steps: 3", &rows, adapter, "learning_rate: 1e-3", SAVE));
    let epoch = |out: &Path, name: &str| {
        let file = WeightFile::open(out.join(format!("out/checkpoints/{name}.safetensors"))).unwrap();
        file.header().metadata["ss_epoch"].clone()
    };
    let of_steps: Vec<String> = (1..=2).map(|step| epoch(folder.path(), &format!("case-step{step:08}"))).collect();
    assert_eq!((of_steps, epoch(folder.path(), "case")), (vec!["1".into(), "1".into()], "2".into()));
    let other = tempfile::tempdir().unwrap();
    let more = SAVE.replace("steps: 1", "epochs: 1");
    train(other.path(), &document("steps: 3", &rows, adapter, "learning_rate: 1e-3", &more));
    assert_eq!(epoch(other.path(), "case-000001"), "1");
}

/// 44. What a replay says of masks and weights counts for the weights themselves too.
#[test]
fn masks_and_weights_count_in_full_fine_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, shape: &[usize], values: Vec<f32>| {
        let rows = first_rows(folder.path(), 2, vec![TensorOut::f32(name, DType::F32, shape, values)]);
        let text = document("steps: 1, batch_size: 2", &rows, "type: adapter.full", "learning_rate: 1e-4", "");
        let metrics = train(tempfile::tempdir().unwrap().path(), &text);
        (numbers(&metrics, "loss")[0], numbers(&metrics, "grad_norm")[0])
    };
    let (loss, norm) = run("loss_weights", &[2], vec![1.0, 1.0]);
    assert!(loss > 0.0 && norm > 0.0);
    let (doubled, twice) = run("loss_weights", &[2], vec![2.0, 2.0]);
    assert!((doubled / loss - 2.0).abs() < 1e-5 && (twice / norm - 2.0).abs() < 1e-4);
    assert_eq!(run("loss_mask", &[2, 16, 16], vec![0.0; 512]), (0.0, 0.0));
}

/// 9. A rank is drawn in training alone: what is measured is of all ranks, and the same each time.
#[test]
fn dylora_measures_with_every_rank() {
    let measured = |kind: &str| {
        let folder = tempfile::tempdir().unwrap();
        let weights = fixture("lora_trajectory/final.safetensors");
        let more = "  validation: { type: logger.validation, loss: loss, batch: rows, every: { steps: 1 } }\n";
        let adapter = format!("{kind}, weights: {weights}");
        train(folder.path(), &document("steps: 8", &replay(), &adapter, "learning_rate: 0.0", more));
        ["validation.jsonl", "metrics.jsonl"].map(|file| {
            let lines = std::fs::read_to_string(folder.path().join("out").join(file)).unwrap();
            let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
            lines.lines().map(loss).collect::<Vec<f64>>()
        })
    };
    let [held, losses] = measured("type: adapter.dylora, rank: 4, unit: 1");
    let [plain, of_plain] = measured("type: adapter.lora, rank: 4");
    assert!(held.len() >= 8 && held.iter().all(|loss| *loss == held[0]), "{held:?}");
    assert!((held[0] / plain[0] - 1.0).abs() < 1e-6, "{} {}", held[0], plain[0]);
    assert!(losses.iter().zip(&of_plain).any(|(a, b)| (a / b - 1.0).abs() > 1e-6), "ranks are drawn in training");
}

/// 52. Weights that do not change have the same held-out loss at every measurement.
#[test]
fn validation_measures_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let more = "  validation: { type: logger.validation, loss: loss, batch: rows, every: { steps: 1 } }\n";
    train(folder.path(), &document("steps: 3", &replay(), "type: adapter.lora, rank: 2", "learning_rate: 0.0", more));
    let lines = std::fs::read_to_string(folder.path().join("out/validation.jsonl")).unwrap();
    let losses: Vec<f64> = lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["loss"].as_f64().unwrap())
        .collect();
    assert!(losses.len() >= 3 && losses.iter().all(|loss| *loss == losses[0]), "{losses:?}");
}
