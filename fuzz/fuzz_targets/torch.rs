//! A torch checkpoint of either form: zip, pickle, state dictionary, strided views.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_data::weights::fuzz;

fuzz_target!(|data: &[u8]| {
    let _ = fuzz::torch(data);
});
