//! Metadata files: what they say, which images their keys name, and what is wrong with them.

use std::fs;
use std::path::Path;

use pipe_data::images::{Keys, Listed, read_list};

fn list(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<Listed>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read_list(&path).map_err(|e| e.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn listed(key: &str, caption: &str, tags: &str) -> Listed {
    Listed { key: key.into(), caption: caption.into(), tags: tags.into() }
}

#[test]
fn both_forms_are_read() {
    let object = "\u{feff}{ \"b\": {\"caption\": \" a cat \", \"tags\": \"x, y\", \"train_resolution\": [1, 2]},\n \"a/c.png\": {\"tags\": null} }";
    assert_eq!(list("m.json", object).unwrap(), [listed("b", "a cat", "x, y"), listed("a/c.png", "", "")]);
    let lines = "{\"image_path\": \"é.png\", \"caption\": \"one\\ntwo\"}\r\n\n{\"image_path\": \"2\", \"tags\": \"t\"}";
    assert_eq!(list("m.JSONL", lines).unwrap(), [listed("é.png", "one\ntwo", ""), listed("2", "", "t")]);
    assert_eq!(list("m.json", "{}").unwrap(), []);
    assert_eq!(list("m.jsonl", "\n\n").unwrap(), []);
}

#[test]
fn tags_stand_behind_the_caption() {
    let entry = listed("a", "one\n\n two ", "x\ny, z");
    assert_eq!(entry.text(", ", false), "one, x, y, z");
    assert_eq!(entry.text(";", true), "one;x;y, z\ntwo;x;y, z");
    assert_eq!(listed("a", "", "x, y").text(",", false), "x, y");
    assert_eq!(listed("a", "one", "").text(",", true), "one");
    assert_eq!(listed("a", "", "").text(",", true), "");
}

#[test]
fn faults_have_a_place() {
    for (name, text, part) in [
        ("m.json", "", "line 1"),
        ("m.json", "[1]", "invalid type: sequence, expected an object with a key"),
        (
            "m.json",
            "{\n \"a\": {\"caption\": 5}}",
            "`m.json` line 2, column 19: invalid type: integer `5`, expected a string",
        ),
        ("m.json", "{\n \"a\": 5\n}", "line 2"),
        ("m.json", "{ \"a\": {},\n \"b\": {},\n \"a\": {} }", "the key `a` stands twice"),
        ("m.json", "{ \"a\": {}", "EOF"),
        ("m.json", "{ \"a\": {} } {", "trailing characters"),
        (
            "m.jsonl",
            "{\"image_path\": \"a\"}\n{\"caption\": \"b\"}",
            "`m.jsonl` line 2, column 16: missing field `image_path`",
        ),
        ("m.jsonl", "{\"image_path\": \"a\"}\n\n{\"image_path\": \"a\"}", "line 3"),
        ("m.jsonl", "{\"image_path\": \"a\"}\nnonsense", "line 2, column 2"),
    ] {
        let error = list(name, text).unwrap_err();
        assert!(error.contains(part), "{text:?}: {error}");
    }
    assert!(list("m.json", b"{ \"a\": {},\n\"\xff\": {} }").unwrap_err().contains("line 2, column 2: not UTF-8 text"));
    // Nesting without end is refused, not followed.
    assert!(list("m.json", "[".repeat(100_000)).is_err());
    assert!(list("m.json", "{\"a\":".repeat(100_000)).is_err());
    assert!(list("m.json", format!("{{\"a\": {{\"other\": {}", "[".repeat(100_000))).is_err());
    assert!(read_list(Path::new("/nowhere/m.json")).is_err());
    assert!(read_list(tempfile::tempdir().unwrap().path()).is_err(), "a folder");
}

#[test]
fn keys_name_images_in_every_way_of_the_tools() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("sub")).unwrap();
    for name in ["a.png", "b.JPG", "c.png", "c.webp", "d.e.png", "sub/f.png", "notes.txt"] {
        fs::write(at(name), "x").unwrap();
    }
    let keys = Keys::of(folder.path()).unwrap();
    let absolute = at("sub/f.png").display().to_string();
    for (key, name) in [
        ("a.png", "a.png"),
        ("a", "a.png"),
        ("b", "b.JPG"),
        ("d.e", "d.e.png"),
        ("c.webp", "c.webp"),
        ("sub/f.png", "sub/f.png"),
        ("sub\\f.png", "sub/f.png"),
        ("sub/f", "sub/f.png"),
        (absolute.as_str(), "sub/f.png"),
    ] {
        assert_eq!(keys.image(key), Ok(at(name)), "{key}");
    }
    for (key, part) in [
        ("", "empty"),
        ("c", "may be one of 2"),
        ("f", "no image `f`"),
        ("notes", "no image"),
        ("notes.txt", "no image"),
        ("sub", "no image"),
        ("../a.gif", "no image"),
        ("a\0.png", "no image"),
        ("none.png", "no image `none.png`"),
    ] {
        let error = keys.image(key).unwrap_err();
        assert!(error.contains(part), "{key:?}: {error}");
    }
}
