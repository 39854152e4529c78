//! Time to check a document of 2,000 nodes, from text to facts. Run with `cargo bench -p pipe-core`.

use std::path::Path;
use std::time::Instant;

use pipe_core::check::check_text;
use pipe_core::document::{Document, Syntax};
use pipe_core::testing;

fn main() {
    let registry = testing::registry();
    for nodes in [500, 2000, 8000] {
        let good = testing::large(nodes);
        time(&registry, &format!("{nodes} nodes"), &good);
        let misspelt = good.replace("resolution:", "resolutoin:").replace("vae: vae_", "vae: vea_");
        time(&registry, &format!("{nodes} nodes, two errors in every fourth"), &misspelt);
    }
}

fn time(registry: &pipe_core::registry::Registry, name: &str, text: &str) {
    let mut best = f64::MAX;
    let mut found = 0;
    for _ in 0..5 {
        let begun = Instant::now();
        let checked = check_text(registry, text, Path::new("large.yaml"), Syntax::Yaml, &[]);
        best = best.min(begun.elapsed().as_secs_f64());
        found = checked.diagnostics.len();
    }
    let begun = Instant::now();
    let document = Document::parse(text, "large.yaml", Syntax::Yaml, &[]);
    let read = begun.elapsed().as_secs_f64();
    assert!(document.tree.is_some());
    println!(
        "{name}: {:.1} ms ({:.1} ms of it reading), {found} diagnostics, {} kB",
        best * 1e3,
        read * 1e3,
        text.len() / 1000
    );
}
