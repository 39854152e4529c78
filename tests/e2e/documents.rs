//! `check`, `plan` and `graph` on documents: every error at its line, every format, every exit code.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::support::{folder, line_of, pipe_in, tiny};

/// A document with five mistakes: a misspelt key, a text for a number, an unknown node, a cycle, a missing file.
fn five_errors() -> String {
    tiny(8)
        .replace("rank: 4, dropout: 0.1", "rnak: 4")
        .replace("learning_rate: 1e-3", "learning_rate: fast")
        .replace("text: clip }", "text: clop }")
        .replace("model: lora, batch: cached", "model: again, batch: cached")
        .replace(
            "  metrics:",
            "  again: { type: adapter.lora, model: more }\n  more: { type: adapter.lora, model: again }\n  metrics:",
        )
        .replace("path: /", "path: nowhere/")
}

#[test]
fn five_mistakes_are_five_errors_each_at_its_line() {
    let text = five_errors();
    let dir = folder("five.yaml", &text);
    let found = pipe_in(dir.path(), &["check", "five.yaml", "--format", "json"]).expect(1).json();
    let found = found.as_array().expect("an array");
    for entry in found {
        let keys: Vec<&String> = entry.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["code", "severity", "message", "file", "line", "column", "end_line", "end_column", "help"]);
        assert_eq!(entry["file"], "five.yaml");
    }
    let lines: BTreeMap<&str, Vec<u64>> = found.iter().fold(BTreeMap::new(), |mut lines, entry| {
        let code = entry["code"].as_str().expect("a code");
        lines.entry(code).or_default().push(entry["line"].as_u64().expect("a line"));
        lines
    });
    for (code, part) in
        [("P0104", "rnak"), ("P0101", "learning_rate: fast"), ("P0202", "text: clop"), ("P0301", "nowhere")]
    {
        let at = line_of(&text, part);
        assert!(lines.get(code).is_some_and(|lines| lines.contains(&at)), "{code} at {at}: {found:#?}");
    }
    // A cycle is told once, at one of the nodes on it, with all of them named.
    let cycle = found.iter().find(|entry| entry["code"] == "P0206").unwrap_or_else(|| panic!("{found:#?}"));
    let on_it = ["again: { type", "more: { type"].map(|part| Json::from(line_of(&text, part)));
    assert!(on_it.contains(&cycle["line"]), "{cycle}");
    assert!(
        ["again", "more"].iter().all(|name| cycle["message"].as_str().is_some_and(|m| m.contains(name))),
        "{cycle}"
    );
    let misspelt = found.iter().find(|entry| entry["code"] == "P0104").expect("found above");
    assert!(misspelt["help"].as_str().is_some_and(|help| help.contains("`rank`")), "{misspelt}");
}

/// The same five mistakes in three nodes: one fault of a node must not hide another.
#[test]
fn five_mistakes_in_fewer_nodes_are_still_five_errors() {
    let text = tiny(8)
        .replace("type: loader.images, path: /", "type: loader.images, repaets: 2, path: nowhere/")
        .replace("resolution: 64", "resolution: large")
        .replace("samples: photos, vae: vae, text: clip }", "samples: photos, vae: cached, text: clop }")
        .replace("accumulate: 2, ", "");
    let dir = folder("five.yaml", &text);
    let found = pipe_in(dir.path(), &["check", "five.yaml", "--format", "json"]).expect(1).json();
    let at = |code: &str, part: &str| {
        let line = line_of(&text, part);
        let count = found.as_array().unwrap().iter().filter(|e| e["code"] == code && e["line"] == line).count();
        assert_eq!(count, 1, "{code} at line {line}: {found:#}");
    };
    at("P0104", "repaets");
    at("P0101", "resolution: large");
    at("P0301", "nowhere/");
    at("P0202", "text: clop");
    at("P0209", "vae: cached");
    assert_eq!(found.as_array().map(Vec::len), Some(5), "{found:#}");
}

#[test]
fn a_missing_file_is_told_once_whoever_finds_it() {
    let count = |text: &str| {
        let dir = folder("a.yaml", text);
        let found = pipe_in(dir.path(), &["check", "a.yaml", "--format", "json"]).expect(1).json();
        found.as_array().unwrap().iter().filter(|entry| entry["code"] == "P0301").count()
    };
    let missing = tiny(8).replace("path: /", "path: nowhere/");
    assert_eq!(count(&missing), 1);
    assert_eq!(count(&missing.replace("resolution: 64", "resolution: large")), 1);
}

#[test]
fn without_files_what_is_missing_is_assumed_and_what_is_there_is_checked() {
    let text = tiny(8).replace("path: /", "path: nowhere/");
    let dir = folder("a.yaml", &text);
    pipe_in(dir.path(), &["check", "a.yaml"]).expect(1);
    let ran = pipe_in(dir.path(), &["check", "a.yaml", "--without-files"]).expect(0);
    assert_eq!(ran.err.trim(), "11 nodes checked: no problems");
    let plan = pipe_in(dir.path(), &["plan", "a.yaml", "--without-files"]).expect(0).out;
    assert!(
        plan.contains(
            "photos: 100 images assumed, since the folder is not there, each used once an epoch, in 1 bucket"
        ),
        "{plan}"
    );
    pipe_in(dir.path(), &["run", "a.yaml"]).expect(1);
    // A file that is there must still be right.
    let cut = dir.path().join("cut.safetensors");
    std::fs::write(&cut, [0x93, 1, 200, 7, 3, 9, 66, 13, 255, 0, 1]).unwrap();
    let set = ["--set", "nodes.unet.weights=cut.safetensors"];
    let bad = pipe_in(dir.path(), &[&["check", "a.yaml", "--without-files"][..], &set].concat()).expect(1);
    assert!(bad.out.contains("error[P0303]"), "{}", bad.out);
    // A structural fault beside a missing file does not bring it back.
    let both = ["--set", "nodes.photos.repeats=none", "--without-files", "--format", "json"];
    let found = pipe_in(dir.path(), &[&["check", "a.yaml"][..], &both].concat()).expect(1).json();
    assert!(found.as_array().unwrap().iter().all(|entry| entry["code"] == "P0101"), "{found:#}");
}

#[test]
fn the_folder_of_the_run_cannot_be_a_file() {
    let dir = folder("a.yaml", &tiny(8).replace("seed: 3", "seed: 3\noutput: out/here"));
    std::fs::write(dir.path().join("out"), "").unwrap();
    let ran = pipe_in(dir.path(), &["check", "a.yaml", "--format", "concise"]).expect(1);
    assert!(ran.out.starts_with("a.yaml:4:9: error[P0302]: `out` is a file"), "{}", ran.out);
}

#[cfg(unix)]
#[test]
fn pipes_do_not_hang_and_standard_input_is_read() {
    use std::process::Stdio;
    let dir = folder("a.yaml", &tiny(8));
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let document = pipe_in(dir.path(), &["check", "fifo"]).expect(1);
    assert!(document.out.contains("error[P0001]") && document.out.contains("a pipe or a device"), "{}", document.out);
    let photos = pipe_in(dir.path(), &["check", "a.yaml", "--set", "nodes.photos.path=fifo"]).expect(1);
    assert!(photos.out.contains("error[P0302]: `fifo` is a pipe"), "{}", photos.out);
    assert!(pipe_in(dir.path(), &["inspect", "fifo"]).expect(1).err.contains("a pipe or a device"));
    for file in [Stdio::from(std::fs::File::open(dir.path().join("a.yaml")).unwrap()), Stdio::piped()] {
        let mut child = crate::support::command(dir.path())
            .args(["check", "/dev/stdin"])
            .stdin(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            std::io::Write::write_all(&mut stdin, tiny(8).as_bytes()).unwrap();
        }
        crate::support::Ran::of(child.wait_with_output().unwrap()).expect(0);
    }
}

#[test]
fn every_report_format() {
    let dir = folder("five.yaml", &five_errors());
    let check = |format: &str| pipe_in(dir.path(), &["check", "five.yaml", "--format", format]).expect(1);
    let human = check("human");
    assert!(human.out.contains("error[P0104]") && human.out.contains("^^^^"), "{}", human.out);
    assert!(human.err.contains("errors"), "{}", human.err);
    assert!(check("concise").out.lines().all(|line| line.starts_with("five.yaml:")));
    assert!(check("github").out.lines().all(|line| line.starts_with("::error ")));
    let sarif = check("sarif").json();
    assert_eq!(sarif["version"], "2.1.0");
    assert!(sarif["runs"][0]["results"].as_array().is_some_and(|results| results.len() >= 5));
}

#[test]
fn a_good_document_is_clean() {
    let dir = folder("tiny.yaml", &tiny(8));
    let ran = pipe_in(dir.path(), &["check", "tiny.yaml"]).expect(0);
    assert_eq!((ran.out.as_str(), ran.err.trim()), ("", "11 nodes checked: no problems"));
    assert_eq!(pipe_in(dir.path(), &["check", "tiny.yaml", "--format", "json"]).expect(0).json(), Json::Array(vec![]));
    let quiet = pipe_in(dir.path(), &["check", "-q", "tiny.yaml", "tiny.yaml"]).expect(0);
    assert_eq!((quiet.out, quiet.err), (String::new(), String::new()));
}

#[test]
fn overrides_are_checked_like_the_document() {
    let dir = folder("tiny.yaml", &tiny(8));
    let set = |value: &str| pipe_in(dir.path(), &["check", "tiny.yaml", "--format", "concise", "--set", value]);
    set("nodes.adamw.learning_rate=2e-4").expect(0);
    assert!(set("nodes.adamw.learning_rate=fast").expect(1).out.starts_with("--set:1:"));
    assert!(set("nodes.adam.learning_rate=1").expect(1).out.contains("there is no node `adam`"));
    assert!(set("train.device=gpu").expect(1).out.contains("device"));
}

#[test]
fn toml_is_the_same_model() {
    let text =
        "version = 1\nname = \"t\"\n[nodes.photos]\ntype = \"loader.images\"\npath = \"nowhere\"\nresolution = \"x\"\n";
    let dir = folder("t.toml", text);
    let ran = pipe_in(dir.path(), &["check", "t.toml", "--format", "concise"]).expect(1);
    assert!(ran.out.contains("t.toml:6:"), "{}", ran.out);
}

#[test]
fn files_that_cannot_be_read_are_errors_not_faults() {
    let dir = folder("bad.yaml", "nodes:\n\t- x\n");
    std::fs::write(dir.path().join("bytes.yaml"), [0xff, 0xfe, 0, 1]).unwrap();
    std::fs::write(dir.path().join("empty.yaml"), "").unwrap();
    for name in ["missing.yaml", "bad.yaml", "bytes.yaml", "empty.yaml", "."] {
        let ran = pipe_in(dir.path(), &["check", name, "--format", "concise"]).expect(1);
        assert!(ran.out.contains("error[P0"), "{name}: {}", ran.out);
        for command in [&["run"][..], &["plan"], &["graph", "--format", "dot"]] {
            let args: Vec<&str> = command.iter().copied().chain([name]).collect();
            assert!(pipe_in(dir.path(), &args).expect(1).err.contains("error[P0"), "{command:?} {name}");
        }
    }
}

#[test]
fn plan_in_both_forms_and_its_exit_codes() {
    let dir = folder("tiny.yaml", &tiny(8));
    let plan = |args: &[&str]| pipe_in(dir.path(), &[&["plan", "tiny.yaml"], args].concat());
    let human = plan(&[]).expect(0);
    assert!(human.out.contains("8 steps") && human.out.contains("peak"), "{}", human.out);
    let json = plan(&["--format", "json"]).expect(0).json();
    assert_eq!((&json["steps"], &json["fits"]), (&Json::from(8), &Json::Null));
    let peak = json["peak_bytes"].as_u64().expect("a number");
    assert!(json["phases"].as_array().expect("phases").iter().all(|phase| phase["total"].as_u64().unwrap() <= peak));

    assert!(plan(&["--memory", "64GiB"]).expect(0).out.contains("fits into 64.0 GiB"));
    let tight = plan(&["--memory", "1MiB"]).expect(3);
    assert!(tight.err.contains("error[P0501]") && tight.err.contains("the program alone takes"), "{}", tight.err);
    let json = plan(&["--memory", "1MiB", "--format", "json"]).expect(3).json();
    assert_eq!(json["fits"], false);
    // No field makes the program smaller, so none is named.
    assert_eq!((&json["misfit"]["cheapest"], &json["misfit"]["changes"]), (&Json::Null, &serde_json::json!([])));
    // Just below what is needed: what is named was planned, and its number is that of the plan with it.
    let below = format!("{}B", peak - 1);
    let json = plan(&["--memory", &below, "--format", "json"]).expect(3).json();
    let changes = json["misfit"]["changes"].as_array().expect("changes").clone();
    assert!(!changes.is_empty(), "{json:#}");
    for change in &changes {
        let sets: Vec<&str> =
            change["sets"].as_array().unwrap().iter().flat_map(|set| ["--set", set.as_str().unwrap()]).collect();
        let planned = plan(&[&["--format", "json"], &sets[..]].concat()).expect(0).json()["peak_bytes"].clone();
        assert_eq!(planned, change["peak_bytes"], "{change}");
        assert!(planned.as_u64() < Some(peak), "{change}");
    }
    // A batch of 24 does not fit where one of 3 does; what is named is enough, and no smaller than need be.
    let large = ["--set", "train.batch_size=24", "--set", "train.accumulate=1", "--format", "json"];
    let peak = |sets: &[&str]| plan(&[&large[..], sets].concat()).expect(0).json()["peak_bytes"].as_u64().unwrap();
    let enough = peak(&["--set", "train.batch_size=12", "--set", "train.accumulate=2"]);
    assert!(enough < peak(&[]));
    let limit = format!("{enough}B");
    let json = plan(&[&large[..], &["--memory", &limit]].concat()).expect(3).json();
    assert_eq!(json["misfit"]["cheapest"]["fits"], true);
    let cheapest = &json["misfit"]["cheapest"];
    assert_eq!(cheapest["sets"], serde_json::json!(["train.batch_size=12", "train.accumulate=2"]), "{json:#}");
    assert_eq!(cheapest["peak_bytes"], enough);
    assert!(plan(&["--memory", "12"]).expect(2).err.contains("needs a unit"));
    assert_eq!(plan(&["--set", "train.steps=9", "--format", "json"]).expect(0).json()["steps"], 9);
}

#[test]
fn every_graph_format() {
    let dir = folder("tiny.yaml", &tiny(8));
    let graph = |format: &str| pipe_in(dir.path(), &["graph", "tiny.yaml", "--format", format]).expect(0).out;
    assert!(graph("dot").starts_with("digraph") && graph("dot").contains("\"lora\" -> \"loss\""));
    assert!(graph("mermaid").starts_with("flowchart"));
    let svg = graph("svg");
    assert!(svg.contains("<svg") && svg.contains("adapter.lora") && svg.trim_end().ends_with("</svg>"));
    let json: Json = serde_json::from_str(&graph("json")).unwrap();
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(11));

    let written = pipe_in(dir.path(), &["graph", "tiny.yaml", "--format", "svg", "-o", "pictures/tiny.svg"]).expect(0);
    assert_eq!(written.out, "");
    assert_eq!(std::fs::read_to_string(dir.path().join("pictures/tiny.svg")).unwrap(), svg);
}

#[test]
fn a_broken_document_is_drawn_as_far_as_it_goes() {
    let dir = folder("five.yaml", &five_errors());
    let ran = pipe_in(dir.path(), &["graph", "five.yaml", "--format", "dot"]).expect(1);
    assert!(ran.out.contains("\"unet\" -> \"lora\"") && ran.err.contains("error[P0206]"));
    assert!(ran.out.contains("\"again\" -> \"more\"") && ran.out.contains("\"more\" -> \"again\""), "{}", ran.out);
}
