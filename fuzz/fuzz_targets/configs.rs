//! `config.json` of every part of a model, through the checks of the nodes.
#![no_main]

#[path = "../../nodes/tests/support/configs.rs"]
mod configs;

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    static CONFIGS: OnceLock<configs::Configs> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("pipe-fuzz-{}", std::process::id()));
        configs::Configs::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures"), &folder)
    });
    configs.check(data);
});
