//! `config.json`, `model_index.json` and the index of shards of a Diffusers folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_data::weights::fuzz;

fuzz_target!(|data: &[u8]| {
    let _ = fuzz::diffusers(data);
});
