//! `migrate`: from files, from a command line, with everything wrong that users get wrong.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::support::{Ran, pipe_in};

const CONFIG: &str = "pretrained_model_name_or_path = 'sd15.safetensors'
dataset_config = 'data.toml'
output_name = 'my fox'
network_module = 'networks.lora'
network_dim = 16
learning_rate = 1e-4
max_train_epochs = 2
mixed_precision = 'bf16'
min_snr_gamma = 5
huggingface_repo_id = 'me/fox'
";

const DATA: &str = "[general]
caption_extension = '.txt'
[[datasets]]
resolution = 512
batch_size = 2
[[datasets.subsets]]
image_dir = 'photos'
num_repeats = 10
";

const SCRIPT: [&str; 4] = ["--script", "train_network", "--config", "train.toml"];

/// A folder with a configuration and its dataset.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("train.toml"), CONFIG).unwrap();
    std::fs::write(dir.path().join("data.toml"), DATA).unwrap();
    dir
}

fn migrate(dir: &Path, args: &[&str]) -> Ran {
    pipe_in(dir, &[&["migrate", "sd-scripts"][..], args].concat())
}

fn document(dir: &Path, name: &str) -> Json {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    let read = pipe_core::document::Document::parse(&text, name, pipe_core::document::Syntax::Yaml, &[]);
    read.tree.unwrap_or_else(|| panic!("{text}")).to_json()
}

#[test]
fn a_pair_of_files_becomes_a_document_that_checks_and_plans() {
    let dir = folder();
    let ran = migrate(dir.path(), &SCRIPT).expect(0);
    assert_eq!(ran.out, "");
    for text in [
        "--network_dim 16 → nodes.lora.rank",
        "datasets[0].subsets[0].image_dir photos → nodes.images.path",
        "not carried over: 1\n  --huggingface_repo_id",
        "wrote my-fox.pipe.yaml for train_network.py: ",
        "1 not carried over",
        "`sd15.safetensors` is for you to bring (lines ",
        "pipe check my-fox.pipe.yaml",
    ] {
        assert!(ran.err.contains(text), "{text}\n{}", ran.err);
    }
    let made = document(dir.path(), "my-fox.pipe.yaml");
    assert_eq!(made["train"], json!({ "epochs": 2, "batch_size": 2, "precision": "auto" }));
    assert_eq!(made["nodes"]["images"]["repeats"], 10);
    assert_eq!(made["nodes"]["loss"]["min_snr_gamma"], 5);
    let own = ["my-fox.pipe.yaml", "--without-files"];
    pipe_in(dir.path(), &[&["check"][..], &own].concat()).expect(0);
    let plan = pipe_in(dir.path(), &[&["plan", "--format", "json"][..], &own].concat()).expect(0).json();
    assert_eq!(plan["steps"], 1000, "100 images, 10 times, in pairs, 2 epochs");
}

#[test]
fn a_file_that_is_there_is_left_alone() {
    let dir = folder();
    std::fs::write(dir.path().join("my-fox.pipe.yaml"), "mine").unwrap();
    let ran = migrate(dir.path(), &SCRIPT).expect(1);
    assert!(ran.err.contains("`my-fox.pipe.yaml` is already there") && ran.err.contains("--force"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(dir.path().join("my-fox.pipe.yaml")).unwrap(), "mine");
    migrate(dir.path(), &[&SCRIPT[..], &["--force"]].concat()).expect(0);
    // The same text again is no harm.
    migrate(dir.path(), &SCRIPT).expect(0);
}

#[test]
fn a_command_line_goes_behind_dashes() {
    let dir = folder();
    let line = "accelerate launch --mixed_precision bf16 sdxl_train_network.py --pretrained_model_name_or_path \
                xl.safetensors --dataset_config data.toml --output_name a --network_module networks.lora \
                --network_dim 8 --network_train_unet_only --network_args conv_dim=4 loraplus_lr_ratio=16";
    let words: Vec<&str> = line.split_whitespace().collect();
    migrate(dir.path(), &[&["--"][..], &words].concat()).expect(0);
    let made = document(dir.path(), "a.pipe.yaml");
    assert_eq!(made["nodes"]["lora"]["conv"], json!({ "rank": 4, "alpha": 1 }));
    assert_eq!(made["nodes"]["lora"]["lora_plus"], 16);
    // In quotes, with the line breaks of a shell.
    let pasted = line.replace(" --", " \\\n  --");
    let ran = migrate(dir.path(), &["-o", "-", "--", &pasted]).expect(0);
    assert_eq!(ran.out, std::fs::read_to_string(dir.path().join("a.pipe.yaml")).unwrap());
    assert!(ran.err.contains("for you to bring") || ran.err.contains("sdxl_train_network.py: "), "{}", ran.err);
    let quiet = migrate(dir.path(), &["-q", "-o", "-", "--", &pasted]).expect(0);
    assert_eq!(quiet.err, "");
}

#[test]
fn paths_start_from_the_documents_folder() {
    let dir = folder();
    migrate(dir.path(), &[&SCRIPT[..], &["-o", "deep/er/fox.pipe.yaml"]].concat()).expect(0);
    let made = document(dir.path(), "deep/er/fox.pipe.yaml");
    assert_eq!(made["nodes"]["images"]["path"], "../../photos");
    assert_eq!(made["nodes"]["model"]["weights"], "../../sd15.safetensors");
}

#[test]
fn the_report_as_json() {
    let dir = folder();
    let report = migrate(dir.path(), &[&SCRIPT[..], &["--format", "json"]].concat()).expect(0).json();
    assert_eq!(report["script"], "train_network.py");
    assert_eq!((&report["file"], &report["document"]), (&json!("my-fox.pipe.yaml"), &Json::Null));
    assert_eq!((&report["errors"], &report["problems"]), (&json!(0), &json!([])));
    let options = report["options"].as_array().unwrap();
    let of = |name: &str| options.iter().find(|one| one["option"] == name).unwrap_or_else(|| panic!("{options:#?}"));
    assert_eq!(
        of("--network_dim"),
        &json!({ "option": "--network_dim", "value": "16", "kind": "mapped", "target": "nodes.lora.rank", "note": "" })
    );
    assert_eq!(of("--huggingface_repo_id")["kind"], "refused");
    assert_eq!(of("--output_name")["kind"], "changed");
    assert_eq!(of("--network_alpha (not given)")["kind"], "defaulted");
    let counted: u64 = report["counts"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(counted, options.len() as u64);
    assert!(
        report["needs"].as_array().unwrap().iter().any(|need| need.as_str().unwrap().contains("photos")),
        "{report}"
    );
    let printed = migrate(dir.path(), &[&SCRIPT[..], &["--format", "json", "-o", "-"]].concat()).expect(0).json();
    assert!(printed["document"].as_str().unwrap().contains("rank: 16") && printed["file"].is_null());
}

#[test]
fn strict_fails_where_something_is_lost() {
    let dir = folder();
    let ran = migrate(dir.path(), &[&SCRIPT[..], &["--strict"]].concat()).expect(1);
    assert!(ran.err.contains("1 not carried over"), "{}", ran.err);
    assert!(dir.path().join("my-fox.pipe.yaml").exists());
    std::fs::write(dir.path().join("train.toml"), CONFIG.replace("huggingface_repo_id = 'me/fox'\n", "")).unwrap();
    migrate(dir.path(), &[&SCRIPT[..], &["--strict", "--force"]].concat()).expect(0);
}

#[test]
fn what_is_wrong_is_said_with_what_is_right() {
    let dir = folder();
    std::fs::write(dir.path().join("broken.toml"), "a = = 1\n").unwrap();
    std::fs::write(dir.path().join("bytes.toml"), [0xff, 0xfe, 0]).unwrap();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[], 2, &["--config"]),
        (&["--", "train_textual_inversion.py", "--seed", "1"], 2, &["textual inversion", "`sdxl_train_network.py`"]),
        (&["--", "my_train.py"], 2, &["no training script of sd-scripts"]),
        (&["--", "--network_module networks.lora --network_dim 4"], 2, &["does not say which script", "--script"]),
        (&["--", "train_network.py --output_name 'a"], 2, &["never closed"]),
        (&["--config", "none.toml"], 1, &["`none.toml` cannot be read"]),
        (&["--config", "."], 1, &["`.` cannot be read"]),
        (&["--config", "bytes.toml"], 1, &["`bytes.toml` cannot be read"]),
        (&["--config", "broken.toml"], 1, &["`broken.toml`, line 1"]),
        (&["--dataset", "none.toml", "--", "train_network.py"], 1, &["`none.toml` cannot be read"]),
        (&["--", "train_network.py", "--config_file", "none"], 1, &["`none.toml`", "--config_file"]),
    ];
    for (args, code, parts) in cases {
        let ran = migrate(dir.path(), args).expect(*code);
        assert!(parts.iter().all(|part| ran.err.contains(part)), "{args:?}\n{}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
    assert!(pipe_in(dir.path(), &["migrate", "onetrainer", "--config", "a"]).expect(2).err.contains("sd-scripts"));
}

#[test]
fn options_that_sd_scripts_has_not_are_reported_with_the_nearest() {
    let dir = folder();
    std::fs::write(dir.path().join("train.toml"), format!("{CONFIG}min_snr_gama = 5\n")).unwrap();
    let line = ["-o", "a.yaml", "--", "--network_dimm", "8", "--seed", "x"];
    let ran = migrate(dir.path(), &[&SCRIPT[..], &line].concat()).expect(0);
    for text in ["did you mean `--network_dim`", "did you mean `min_snr_gamma`", "`x` is no whole number"] {
        assert!(ran.err.contains(text), "{text}\n{}", ran.err);
    }
    assert!(ran.err.contains("4 not carried over"), "{}", ran.err);
}

#[test]
fn problems_of_the_document_are_told_at_their_line() {
    let dir = folder();
    let args = ["-o", "a.yaml", "--", "--max_train_epochs=0", "--max_train_steps=10", "--lr_warmup_steps=10"];
    let ran = migrate(dir.path(), &[&SCRIPT[..], &args].concat()).expect(1);
    assert!(ran.err.contains("error[P0403]") && ran.err.contains("--> a.yaml:"), "{}", ran.err);
    assert!(ran.err.contains("wrote a.yaml"), "{}", ran.err);
    let report = migrate(dir.path(), &[&SCRIPT[..], &["--format", "json"], &args].concat()).expect(1).json();
    assert_eq!((&report["errors"], &report["problems"][0]["code"]), (&json!(1), &json!("P0403")));
}
