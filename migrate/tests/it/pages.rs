//! Every command of the reference's two manual pages migrates. That the documents check and plan is tested with the
//! binary, which has the node types.

use crate::commands::{ADVANCED, BASE, CONFIG, FULL};
use crate::common::{DATASET, Done, run_with};
use pipe_migrate::{Input, Kind, Nothing, Product, migrate};
use serde_json::{Value as Json, json};

fn all(product: &Product) -> Vec<(String, Done)> {
    let fragments = ADVANCED.iter().map(|fragment| format!("{BASE} {fragment}"));
    let lines = fragments.chain(FULL.iter().map(|line| (*line).to_owned()));
    let mut list: Vec<(String, Done)> =
        lines.map(|line| (line.clone(), run_with(&line, Some(DATASET), &Nothing, product))).collect();
    let mut input =
        Input::from_command("accelerate launch sdxl_train_network.py --config_file=\"training_config.toml\"").unwrap();
    input.config_toml = Some(("training_config.toml".into(), CONFIG.into()));
    input.dataset_toml = Some(("my_dataset.toml".into(), DATASET.into()));
    let outcome = migrate(&input, &Nothing, product).unwrap();
    let read =
        pipe_core::document::Document::parse(&outcome.document, "a.yaml", pipe_core::document::Syntax::Yaml, &[]);
    let document = read.tree.expect("a document").to_json();
    list.push((CONFIG.into(), Done { outcome, document }));
    list
}

/// Options of the pages' own commands that are refused, however much the product has: swapped blocks beside full
/// fine-tuning are not safe there either (number 30 of the reference's bugs).
const REFUSED: &[&str] = &["--resume", "--wandb_api_key", "--blocks_to_swap"];

#[test]
fn every_command_migrates() {
    for (line, done) in all(&Product::everything()) {
        for entry in done.outcome.of(Kind::Refused) {
            assert!(REFUSED.contains(&entry.option.as_str()), "{line}\n{}", done.report());
        }
        assert_eq!(done.at("version"), json!(1));
        // Every node that is named is there.
        let nodes = done.at("nodes");
        for (name, node) in nodes.as_object().unwrap() {
            for port in ["model", "vae", "samples", "batch", "loss", "adapter", "update", "text"] {
                let named = match node.get(port) {
                    Some(Json::String(one)) => vec![one.clone()],
                    Some(Json::Array(many)) => many.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
                    _ => Vec::new(),
                };
                assert!(named.iter().all(|n| nodes.get(n).is_some()), "{line}: {name}.{port}");
            }
        }
    }
}
