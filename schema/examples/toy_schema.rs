//! Prints the JSON Schema of the toy registry, or with `--reference` its reference pages.
//!
//! `cargo run -p pipe-schema --example toy_schema > toy.schema.json`

use pipe_core::testing;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--reference") {
        for (path, page) in pipe_schema::reference(&testing::registry()) {
            println!("==> {path}\n{page}");
        }
        return;
    }
    println!("{:#}", pipe_schema::json_schema(&testing::registry()));
}
