//! Every option of the reference is known, and giving it is never passed over in silence.

use std::collections::HashSet;

use crate::common::{DATASET, run_with};
use pipe_migrate::{Nothing, Product, names, reference_page};
use serde_json::json;

/// One option a line, from the reference's scripts and its description.
const OPTIONS: &str = include_str!("../../options.txt");

const SCRIPTS: [&str; 11] = [
    "train_network",
    "sdxl_train_network",
    "sd3_train_network",
    "flux_train_network",
    "lumina_train_network",
    "train_db",
    "fine_tune",
    "sdxl_train",
    "sd3_train",
    "flux_train",
    "lumina_train",
];

#[test]
fn every_option_is_known() {
    let known: HashSet<String> = names().into_iter().collect();
    let missing: Vec<&str> = OPTIONS.lines().filter(|line| !known.contains(*line)).collect();
    assert!(OPTIONS.lines().count() > 400, "the list is whole");
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_table_has_a_row_for_each() {
    let table = reference_page(&Product::everything());
    for line in OPTIONS.lines() {
        let name = match line.strip_prefix("--network_module ") {
            Some(module) => module,
            None => line.trim_start_matches("--").split(' ').next_back().unwrap(),
        };
        let row = line.starts_with("--optimizer_args") || table.contains(&format!("| `{name}` |"));
        assert!(row, "{line}");
    }
}

fn products() -> [Product; 2] {
    let bare = json!({ "definitions": { "optimizer.adamw": {}, "adapter.lora": {} } });
    [Product::everything(), Product::from_schema(bare)]
}

/// Every option of the command line, in every script, with values of every type: there is an entry that names it.
#[test]
fn no_option_of_the_command_line_is_passed_over() {
    let mut passed_over = Vec::new();
    for option in OPTIONS.lines().filter(|line| line.starts_with("--") && !line.contains(' ')) {
        if option == "--config_file" {
            continue;
        }
        for script in SCRIPTS {
            for value in ["", "3", "0", "fp16"] {
                for product in products() {
                    let line = format!("{script}.py {option} {value}");
                    let done = run_with(&line, Some(DATASET), &Nothing, &product);
                    let mut named = done.outcome.report.iter().filter(|e| e.option == option);
                    let told = named.next().is_some_and(|e| !e.note.contains("no rule"));
                    if !told {
                        passed_over.push(line);
                    }
                }
            }
        }
    }
    assert!(passed_over.is_empty(), "{}", passed_over.join("\n"));
}

#[test]
fn no_argument_of_an_adapter_is_passed_over() {
    for option in OPTIONS.lines().filter(|line| line.starts_with("--network_args ")) {
        let name = option.split(' ').next_back().unwrap();
        for module in ["networks.lora", "networks.dylora", "networks.oft", "lycoris.kohya"] {
            for script in &SCRIPTS[..5] {
                for value in ["True", "0", "0.5", "3", "1,2", "a=1", ""] {
                    let line = format!("{script}.py --network_module {module} --network_args '{name}={value}'");
                    let done = run_with(&line, Some(DATASET), &Nothing, &Product::everything());
                    let named = done.outcome.report.iter().any(|e| e.option == option);
                    assert!(named, "{line}\n{}", done.report());
                }
            }
        }
    }
}

#[test]
fn no_key_of_a_dataset_is_passed_over() {
    let subset = ["image_dir", "metadata_file", "conditioning_data_dir", "is_reg", "alpha_mask"];
    for option in OPTIONS.lines().filter(|line| line.starts_with("dataset ")) {
        let key = option.split(' ').next_back().unwrap();
        if key == "image_dir" {
            continue;
        }
        for value in ["1", "0.5", "true", "false", "'a'", "[0.5, 1.5]", "[512, 768]", "{}", "{ a = 1 }"] {
            for place in ["general", "datasets[0]", "datasets[0].subsets[0]"] {
                let put = |here: &str| if here == place { format!("{key} = {value}\n") } else { String::new() };
                let text = format!(
                    "[general]\n{}[[datasets]]\n{}[[datasets.subsets]]\nimage_dir = 'x'\n{}",
                    put("general"),
                    put("datasets[0]"),
                    put("datasets[0].subsets[0]"),
                );
                for product in products() {
                    let done = run_with("train_network.py", Some(&text), &Nothing, &product);
                    let wanted = format!("{place}.{key}");
                    let named = done.outcome.report.iter().any(|e| e.option.starts_with(&wanted));
                    // An empty table says nothing.
                    let nothing = key == "custom_attributes" && value == "{}";
                    // A subset that is left out as a whole is named by its folder.
                    let lost = subset.contains(&key) && done.outcome.report.iter().any(|e| e.value == "x");
                    assert!(named || nothing || lost, "{wanted} = {value}\n{}", done.report());
                }
            }
        }
    }
}

#[test]
fn no_argument_of_an_optimizer_is_passed_over() {
    let types: Vec<&str> = OPTIONS.lines().filter_map(|line| line.strip_prefix("--optimizer_type ")).collect();
    let args: Vec<&str> = OPTIONS.lines().filter_map(|line| line.strip_prefix("--optimizer_args ")).collect();
    for name in types.into_iter().chain(["Unknown", "torch.optim.SGD"]) {
        for arg in &args {
            for value in ["0.5", "True", "None", "(0.9, 0.99)", "word"] {
                let line = format!("train_network.py --optimizer_type {name} --optimizer_args '{arg}={value}'");
                for product in products() {
                    let done = run_with(&line, Some(DATASET), &Nothing, &product);
                    let wanted = format!("--optimizer_args {arg}");
                    let named = done.outcome.report.iter().any(|e| e.option.starts_with(&wanted));
                    assert!(named, "{line}\n{}", done.report());
                }
            }
        }
    }
}
