//! Lists the ready pipelines with the files they name, so that `pipe init` can write them from the binary alone.
//!
//! A template is a `pipelines/*.yaml`; the first line of its opening comment describes it. Its assets are the files and
//! folders beside it that its text names; what is not there is for the user to bring.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../pipelines");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut code = String::from("pub static TEMPLATES: &[Template] = &[\n");
    for document in files(&root).into_iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
        let text = fs::read_to_string(&document).unwrap_or_default();
        let name = document.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let _ = writeln!(code, "Template {{ name: {name:?}, text: include_str!({document:?}), assets: &[");
        for asset in assets(&root, &text) {
            println!("cargo:rerun-if-changed={}", asset.display());
            let place = asset.strip_prefix(&root).unwrap_or(&asset).to_string_lossy().replace('\\', "/");
            let _ = writeln!(code, "    ({place:?}, include_bytes!({asset:?})),");
        }
        code.push_str("] },\n");
    }
    code.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("templates.rs");
    fs::write(out, code).expect("the build folder can be written");
}

/// The files that a document names, those of named folders included.
fn assets(root: &Path, text: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let code = text.lines().map(|line| line.split(" #").next().unwrap_or(line)).filter(|line| !line.starts_with('#'));
    for word in code.flat_map(|line| line.split(|c: char| c.is_whitespace() || "\"'{}[],".contains(c))) {
        let word = word.trim_start_matches("./").trim_end_matches('/');
        if word.is_empty() || word.starts_with(['/', '~', '.']) || word.contains("..") {
            continue;
        }
        let path = root.join(word);
        match fs::metadata(&path) {
            Ok(about) if about.is_file() => found.extend([path]),
            // A name without a slash is more likely the run's than a folder's.
            Ok(_) if word.contains('/') => found.extend(tree(&path)),
            _ => {}
        }
    }
    // Artwork travels with its licence.
    let folders: BTreeSet<PathBuf> =
        found.iter().flat_map(|path| path.ancestors().skip(1).take(2)).map(Into::into).collect();
    for folder in folders.iter().filter(|folder| folder.starts_with(root) && *folder != root) {
        found.extend(files(folder).into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            name.starts_with("LICENSE") || name.starts_with("NOTICE")
        }));
    }
    found
}

/// The files of a folder and of the folders in it.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let inner = entries.filter(|path| path.is_dir()).flat_map(|path| tree(&path));
    files(folder).into_iter().chain(inner).collect()
}

/// The files of a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}
