//! Files that set-ups name, and set-ups that are wrong as a whole.

use std::io;

use crate::common::{DATASET, run_with};
use crate::rules::{FLUX, SDXL};
use pipe_migrate::{Disk, Files, Input, Kind, Nothing, Product, migrate};
use serde_json::json;

/// Files by name.
struct Shelf(&'static [(&'static str, &'static str)]);

impl Files for Shelf {
    fn read(&self, path: &str) -> io::Result<String> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or(io::ErrorKind::NotFound.into())
    }
    fn folders(&self, path: &str) -> io::Result<Vec<String>> {
        let inside = self.0.iter().filter_map(|(name, _)| name.strip_prefix(path)?.strip_prefix('/'));
        Ok(inside.map(str::to_owned).collect())
    }
}

#[test]
fn files_are_read_where_they_are_named() {
    let shelf = Shelf(&[
        (
            "train.toml",
            "[a]\nnetwork_dim = 32\nlearning_rate = 1e-4\ndataset_config = \"d.toml\"\nsample_prompts = \"p.txt\"",
        ),
        ("d.toml", DATASET),
        ("p.txt", "a fox --w 768 --d 1 --n bad\na den --w 768\n# no\na hole --w 512"),
    ]);
    let line = format!("{SDXL} --config_file train --network_dim 8 --sample_every_n_epochs 2");
    let done = run_with(&line, None, &shelf, &Product::everything());
    assert_eq!(done.at("nodes.lora.rank"), json!(8));
    assert_eq!(done.at("nodes.optimizer.learning_rate"), json!(1e-4));
    assert_eq!(done.at("nodes.images.path"), json!("photos"));
    let prompts = json!([
        { "prompt": "a fox", "negative_prompt": "bad", "seed": 1, "width": 768 },
        { "prompt": "a den", "width": 768 },
        { "prompt": "a hole" }
    ]);
    assert_eq!(done.at("nodes.preview.prompts"), prompts);
    assert_eq!((done.at("nodes.preview.width"), done.at("nodes.preview.every.epochs")), (json!(512), json!(2)));
    assert_eq!(done.kinds("network_dim (file)"), [Kind::Ignored]);
}

/// Options of a prompt that sd-scripts reads and ignores for the model.
#[test]
fn options_of_prompts_count_where_they_are_read() {
    let shelf = Shelf(&[("p.txt", "a fox --fs 3 --rcfg 1 --ctr 0.5 --zz 3")]);
    let rest = "--sample_prompts p.txt --sample_every_n_epochs 2";
    let done = run_with(&format!("{FLUX} {rest}"), Some(DATASET), &shelf, &Product::everything());
    assert_eq!(done.at("nodes.preview.prompts"), json!([{ "prompt": "a fox" }]));
    for option in ["--fs", "--rcfg", "--ctr", "--zz"] {
        assert_eq!(done.kinds(&format!("prompt {option}")), [Kind::Ignored], "{}", done.report());
    }
    let done = run_with(&format!("lumina_train.py {rest}"), Some(DATASET), &shelf, &Product::everything());
    let own = json!([{ "prompt": "a fox", "flow_shift": 3, "guidance_renorm": 1, "guidance_truncation": 0.5 }]);
    assert_eq!(done.at("nodes.preview.prompts"), own);
}

#[test]
fn folders_with_counts_are_data() {
    let shelf = Shelf(&[("photos/10_fox", ""), ("photos/3_den", ""), ("photos/other", "")]);
    let line = "train_network.py --train_data_dir photos --resolution 512,768 --train_batch_size 4";
    let done = run_with(line, None, &shelf, &Product::everything());
    assert_eq!(done.at("nodes.images.path"), json!("photos/10_fox"));
    assert_eq!(done.at("nodes.images.default_caption"), json!("fox"));
    assert_eq!(done.at("nodes.images_2.repeats"), json!(3));
    assert_eq!(done.at("nodes.images.resolution"), json!([512, 768]));
    assert_eq!(done.at("nodes.images.caption_extension"), json!(".caption"));
    assert_eq!(done.at("nodes.cached.samples"), json!(["images", "images_2"]));
    assert_eq!(done.at("train.batch_size"), json!(4));
    assert_eq!(done.kinds("--train_batch_size"), [Kind::Mapped]);
}

#[test]
fn what_the_product_lacks_is_refused() {
    let schema = json!({ "definitions": { "optimizer.adamw": { "properties": { "loss": {} } }, "adapter.lora": {} } });
    let product = Product::from_schema(schema);
    for (option, value) in [("--optimizer_type", "Prodigy"), ("--network_dim", "8"), ("--min_snr_gamma", "5")] {
        let done = run_with(&format!("{SDXL} {option} {value}"), Some(DATASET), &Nothing, &product);
        assert_eq!(done.kinds(option), [Kind::Refused], "{}", done.report());
        assert!(done.outcome.document.contains(&format!("#   {option}")), "{}", done.outcome.document);
    }
}

#[test]
fn what_cannot_be_migrated_says_why() {
    for (line, part) in [
        ("train_textual_inversion.py", "textual inversion"),
        ("hunyuan_image_train_network.py", "family of models"),
        ("--network_dim 4 --network_module networks.lora", "does not say"),
        ("sdxl_train.py --config_file none.toml", "no such file"),
    ] {
        let input = Input::from_command(line).unwrap();
        let error = migrate(&input, &Disk::at("."), &Product::everything()).unwrap_err().to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
    let toml = Input { config_toml: Some(("a.toml".into(), "a = = 1".into())), ..Input::default() };
    assert!(migrate(&toml, &Nothing, &Product::everything()).unwrap_err().to_string().contains("`a.toml`, line 1"));
}

#[test]
fn a_file_alone_tells_its_script() {
    let text = "network_module = \"networks.lora_flux\"\nguidance_scale = 1.0";
    let input = Input { config_toml: Some(("a.toml".into(), text.into())), ..Input::default() };
    let outcome = migrate(&input, &Nothing, &Product::everything()).unwrap();
    assert!(outcome.document.starts_with("# Migrated from `flux_train_network.py`"), "{}", outcome.document);
}
