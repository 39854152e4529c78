//! What the tests share.

use pipe_core::document::{Document, Syntax};
use pipe_migrate::{Files, Input, Kind, Nothing, Outcome, Product, migrate};
use serde_json::Value as Json;

pub const DATASET: &str = r#"
[general]
caption_extension = ".txt"
enable_bucket = true
[[datasets]]
resolution = 1024
batch_size = 2
  [[datasets.subsets]]
  image_dir = "photos"
  num_repeats = 10
"#;

/// A migration and its document, read back.
pub struct Done {
    pub outcome: Outcome,
    pub document: Json,
}

impl Done {
    /// The value at `nodes.loss.min_snr_gamma`; null for none.
    pub fn at(&self, path: &str) -> Json {
        path.split('.').try_fold(&self.document, |here, key| here.get(key)).cloned().unwrap_or_default()
    }
    /// The report in words.
    pub fn report(&self) -> String {
        self.outcome.render(|_, title| title.to_owned())
    }
    /// What became of an option.
    pub fn kinds(&self, option: &str) -> Vec<Kind> {
        self.outcome.report.iter().filter(|e| e.option == option).map(|e| e.kind).collect()
    }
}

pub fn run_with(line: &str, dataset: Option<&str>, files: &dyn Files, product: &Product) -> Done {
    let mut input = Input::from_command(line).expect(line);
    input.dataset_toml = dataset.map(|text| ("dataset.toml".into(), text.into()));
    let outcome = migrate(&input, files, product).unwrap_or_else(|error| panic!("{line}: {error}"));
    let read = Document::parse(&outcome.document, "a.yaml", Syntax::Yaml, &[]);
    assert!(read.diagnostics.is_empty(), "{line}\n{:?}\n{}", read.diagnostics, outcome.document);
    let document = read.tree.expect("a document").to_json();
    Done { outcome, document }
}

pub fn run(line: &str) -> Done {
    run_with(line, Some(DATASET), &Nothing, &Product::everything())
}
