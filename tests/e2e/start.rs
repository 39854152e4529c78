//! `init` and what surrounds a first use: help, completions, colours, doctor, made files.

use std::process::Stdio;

use crate::support::{command, pipe, pipe_in, root};

const COMMANDS: [&str; 11] =
    ["run", "check", "plan", "graph", "init", "nodes", "explain", "inspect", "schema", "doctor", "completions"];

#[test]
fn init_leaves_a_folder_that_checks_clean() {
    let dir = tempfile::tempdir().unwrap();
    let ran = pipe_in(dir.path(), &["init", "quickstart", "first"]).expect(0);
    assert!(ran.err.contains("pipe run first/quickstart.pipe.yaml"), "{}", ran.err);
    let folder = dir.path().join("first");
    let text = std::fs::read_to_string(folder.join("quickstart.pipe.yaml")).unwrap();
    assert!(text.starts_with("# yaml-language-server: $schema=pipeline.schema.json\n"), "{text}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let json = |name: &str| serde_json::from_str::<serde_json::Value>(&read(name)).unwrap();
    assert!(json("pipeline.schema.json")["properties"]["nodes"].is_object());
    assert!(
        json(".vscode/settings.json")["yaml.schemas"]["./pipeline.schema.json"].to_string().contains("*.pipe.yaml")
    );
    let recommended = json(".vscode/extensions.json").to_string();
    assert!(recommended.contains("redhat.vscode-yaml") && recommended.contains("tamasfe.even-better-toml"));
    assert!(read(".taplo.toml").contains("pipeline.schema.json"));
    pipe_in(&folder, &["check", "quickstart.pipe.yaml"]).expect(0);
    pipe_in(dir.path(), &["plan", "first/quickstart.pipe.yaml"]).expect(0);
}

#[test]
fn init_does_not_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    pipe_in(dir.path(), &["init"]).expect(0);
    let document = dir.path().join("quickstart.pipe.yaml");
    // Nothing differs, so nothing is in danger.
    pipe_in(dir.path(), &["init"]).expect(0);
    std::fs::write(&document, "mine").unwrap();
    std::fs::write(dir.path().join(".vscode/settings.json"), "{\"editor.rulers\": [80]}").unwrap();
    let refused = pipe_in(dir.path(), &["init"]).expect(1);
    assert!(refused.err.contains("`quickstart.pipe.yaml`") && refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(&document).unwrap(), "mine");
    pipe_in(dir.path(), &["init", "--force"]).expect(0);
    assert_ne!(std::fs::read_to_string(&document).unwrap(), "mine");
    let settings = std::fs::read_to_string(dir.path().join(".vscode/settings.json")).unwrap();
    assert!(settings.contains("editor.rulers") && settings.contains("yaml.schemas"), "{settings}");
}

#[test]
fn every_template_is_written_and_read() {
    let list = pipe(&["init", "--list"]).expect(0).out;
    // Every ready pipeline is one, with what it does.
    let ready = std::fs::read_dir(root().join("pipelines")).unwrap().map(|entry| entry.unwrap().path());
    let mut ready: Vec<String> = ready
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    ready.sort();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let listed: Vec<String> = list.lines().map(|line| words(line)[0].clone()).collect();
    assert_eq!(listed, ready);
    assert!(["quickstart", "sd15-lora", "sd15-finetune"].iter().all(|name| listed.iter().any(|one| one == name)));
    assert!(list.lines().all(|line| words(line).len() > 4), "{list}");
    for name in &listed {
        let dir = tempfile::tempdir().unwrap();
        let ran = pipe_in(dir.path(), &["init", name]).expect(0);
        let file = format!("{name}.pipe.yaml");
        // Weights may be for the user to bring; everything else is right.
        let found = pipe_in(dir.path(), &["check", &file, "--format", "json"]).json();
        let found = found.as_array().unwrap();
        let missing = found.iter().filter(|entry| entry["code"] == "P0301").count();
        assert_eq!(missing, found.len(), "{name}: {found:#?}");
        assert_eq!(ran.err.contains("what the document still needs"), missing > 0, "{}", ran.err);
        pipe_in(dir.path(), &["check", &file, "--without-files"]).expect(0);
        pipe_in(dir.path(), &["plan", &file, "--without-files"]).expect(0);
    }
    let dir = tempfile::tempdir().unwrap();
    let needs = pipe_in(dir.path(), &["init", "sd15-lora"]).expect(0).err;
    assert!(needs.contains("`sd15.safetensors` is for you to bring (lines "), "{needs}");
    assert!(needs.contains("`photos` is for you to bring (line "), "{needs}");
    assert!(pipe_in(dir.path(), &["init", "sd15-lora"]).expect(0).err.contains("has everything already"));
    let folder = pipe(&["init", "my-first-run"]).expect(2).err;
    assert!(folder.contains("`pipe init quickstart my-first-run`"), "{folder}");
    let wrong = pipe(&["init", "quikstart"]).expect(2);
    assert!(wrong.err.contains("did you mean `quickstart`?"), "{}", wrong.err);
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = pipe(&["completions", shell]).expect(0).out;
        for name in COMMANDS {
            assert!(script.contains(name), "{shell}: {name}");
        }
        assert!(script.contains("resume"), "{shell}");
    }
    pipe(&["completions", "cmd"]).expect(2);
}

#[test]
fn help_names_every_command_and_usage_errors_exit_2() {
    let help = pipe(&["--help"]).expect(0).out;
    for name in COMMANDS {
        assert!(help.contains(&format!("\n  {name} ")), "{name}");
        assert!(pipe(&[name, "--help"]).expect(0).out.contains("Usage: pipe"), "{name}");
    }
    assert!(!help.contains("generate"));
    assert!(pipe(&["--version"]).expect(0).out.starts_with("pipe "));
    assert!(pipe(&["chekc", "x"]).expect(2).err.contains("`check`"));
    assert!(pipe(&["run"]).expect(2).err.contains("<FILE>"));
    pipe(&["run", "x.yaml", "--resme"]).expect(2);
    pipe::<&str>(&[]).expect(2);
}

#[test]
fn colour_only_when_wanted() {
    let colored = |args: &[&str]| pipe(args).out.contains('\u{1b}');
    assert!(!colored(&["nodes"]));
    assert!(colored(&["nodes", "--color", "always"]));
    assert!(colored(&["--color=always", "--help"]));
    assert!(!colored(&["--color=never", "--help"]));
    let output = command(&root()).args(["check", "missing.yaml"]).env("NO_COLOR", "1").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains('\u{1b}'));
}

#[test]
fn doctor_tells_what_there_is() {
    let report = pipe(&["doctor", "--format", "json"]).expect(0).json();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let cpu = &report["devices"][0];
    assert_eq!((cpu["name"].as_str(), cpu["answers"].as_bool()), (Some("cpu"), Some(true)));
    assert!(cpu["dtypes"].to_string().contains("f32"));
    assert!(report["memory"]["total"].as_u64().unwrap() > 0 && report["cpu"]["cores"].as_u64().unwrap() > 0);
    assert!(report["cache"]["folder"].is_string());
    let human = pipe(&["doctor"]).expect(0).out;
    assert!(human.contains("memory") && human.contains("cache"), "{human}");
}

#[test]
fn a_reader_that_hangs_up_is_no_fault() {
    let mut child = command(&root()).arg("schema").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn made_files_are_checked_and_written() {
    let dir = tempfile::tempdir().unwrap();
    pipe_in(dir.path(), &["generate", "--mode", "check"]).expect(2);
    std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
    let missing = pipe_in(dir.path(), &["generate", "--mode", "check"]).expect(1);
    assert!(missing.out.contains("out of date: docs/reference/cli.md"), "{}", missing.out);
    pipe_in(dir.path(), &["generate", "--mode", "write"]).expect(0);
    pipe_in(dir.path(), &["generate", "--mode", "check"]).expect(0);
    let page = std::fs::read_to_string(dir.path().join("docs/reference/cli.md")).unwrap();
    for name in COMMANDS {
        assert!(page.contains(&format!("## pipe {name}\n")), "{name}");
    }
    std::fs::write(dir.path().join("docs/reference/old.md"), "").unwrap();
    let stale = pipe_in(dir.path(), &["generate", "--mode", "check"]).expect(1);
    assert_eq!(stale.out, "no longer made: docs/reference/old.md\n");
    pipe_in(dir.path(), &["generate", "--mode", "write"]).expect(0);
    assert!(!dir.path().join("docs/reference/old.md").exists());
}
