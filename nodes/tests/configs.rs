//! Whatever stands in a `config.json`, the nodes read it or report it. The fuzz target `configs` does the same with
//! inputs of its own.

#[path = "support/configs.rs"]
mod configs;

use std::path::Path;

use configs::Configs;

/// The keys that are read.
const KEYS: [&str; 9] = [
    "attention_head_dim",
    "norm_num_groups",
    "addition_time_embed_dim",
    "num_attention_heads",
    "axes_dims_rope",
    "axes_dim_rope",
    "head_dim",
    "scaling_factor",
    "shift_factor",
];

/// Values that no model has, and some that fit one of them.
const VALUES: [&str; 19] = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "-0.0",
    "1e300",
    "16777216",
    "16777217",
    "18446744073709551615",
    "18446744073709551616",
    "[]",
    "[0]",
    "[1, 2, 4]",
    "[0, 0, 0]",
    "[16777216, 16777216, 16777216]",
    "[2, \"four\"]",
    "{ \"a\": [1] }",
    "true",
];

fn made(folder: &Path) -> Configs {
    let fixtures = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures");
    Configs::new(&fixtures, folder)
}

#[test]
fn any_value_is_read_or_reported() {
    let folder = tempfile::tempdir().unwrap();
    let configs = made(folder.path());
    let plain = configs.check(b"{}").len();
    for key in KEYS {
        let wrong = configs.check(format!("{{ \"{key}\": \"two\" }}").as_bytes());
        assert!(wrong.contains(&"P0303") && wrong.len() >= plain, "{key}: {wrong:?}");
        assert_eq!(configs.check(format!("{{ \"{key}\": null }}").as_bytes()).len(), plain, "{key}");
        for value in VALUES {
            configs.check(format!("{{ \"{key}\": {value} }}").as_bytes());
        }
    }
    for value in VALUES {
        let all = Vec::from_iter(KEYS.map(|key| format!("\"{key}\": {value}"))).join(", ");
        configs.check(format!("{{ {all} }}").as_bytes());
    }
}

#[test]
fn what_is_no_configuration_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let configs = made(folder.path());
    for text in ["", "{", "[]", "5", "null", "\u{feff}{}", "{ \"head_dim\": 1, \"head_dim\": }", &"[".repeat(5000)] {
        let found = configs.check(text.as_bytes());
        assert!(found.iter().filter(|code| **code == "P0303").count() >= 13, "{text:.20}: {found:?}");
    }
    assert!(configs.check(b"\xff\xfe{}").contains(&"P0303"));
}
