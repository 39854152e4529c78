//! Nothing that is typed or pasted makes the migrator panic, and documents always read back.

use pipe_core::document::{Document, Syntax};
use pipe_migrate::{Input, Nothing, Product, migrate, names, shell};
use proptest::prelude::*;

fn option() -> impl Strategy<Value = String> {
    let known: Vec<String> = names().into_iter().filter(|name| name.starts_with("--") && !name.contains(' ')).collect();
    prop_oneof![9 => proptest::sample::select(known), 1 => "-{0,3}[a-z_]{0,12}"]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9.,e-]{0,8}",
        "[a-z_]{1,10}=[A-Za-z0-9.,=()+-]{0,10}",
        "\\PC{0,12}",
        proptest::sample::select(vec!["networks.lora", "Prodigy", "Adafactor", "cosine", "True", "-1", "0", "huber"])
            .prop_map(str::to_owned),
    ]
}

fn words() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec((option(), proptest::collection::vec(value(), 0..3)), 0..12)
        .prop_map(|list| list.into_iter().flat_map(|(name, values)| [vec![name], values].concat()).collect())
}

const SCRIPTS: [&str; 5] = ["train_network", "sdxl_train", "sd3_train_network", "flux_train_network", "lumina_train"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_words(words in words(), script in proptest::sample::select(SCRIPTS.to_vec()), dataset in "[a-z_=\\[\\]0-9 .'\n]{0,60}") {
        let file = Some(("d.toml".to_owned(), dataset));
        for dataset_toml in [None, file] {
            let input = Input { script: Some(script.into()), args: words.clone(), config_toml: None, dataset_toml, ..Input::default() };
            if let Ok(outcome) = migrate(&input, &Nothing, &Product::everything()) {
                let read = Document::parse(&outcome.document, "a.yaml", Syntax::Yaml, &[]);
                prop_assert!(read.diagnostics.is_empty(), "{}", outcome.document);
                prop_assert!(!outcome.render(|_, title| title.to_owned()).is_empty());
            }
        }
    }

    #[test]
    fn any_file(text in "(([a-z_]{1,20} = ([0-9.e-]{1,6}|true|\"[a-z.]{0,6}\"|\\[[0-9, ]{0,9}\\])|\\[[a-z]{1,4}\\])\n){0,12}") {
        let input = Input { script: Some("train_network".into()), config_toml: Some(("a.toml".into(), text)), ..Input::default() };
        let _ = migrate(&input, &Nothing, &Product::everything());
    }

    #[test]
    fn any_paste(text in "[ -~\n]{0,80}|\\PC{0,40}") {
        if let Ok(words) = shell::split(&text) {
            let _ = migrate(&Input { args: words, ..Input::default() }, &Nothing, &Product::everything());
        }
    }

    /// Quoting a word in single quotes and splitting gives it back.
    #[test]
    fn quoting_is_undone(words in proptest::collection::vec("[^']{0,12}", 0..6)) {
        let line = words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
        prop_assert_eq!(shell::split(&line).unwrap(), words);
    }
}
