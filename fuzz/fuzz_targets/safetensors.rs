//! The header of a safetensors file, and its tensors when the header is good.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_data::weights::fuzz;

fuzz_target!(|data: &[u8]| {
    let _ = fuzz::safetensors(data);
});
