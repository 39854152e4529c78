//! What goes wrong for those who use `pipe` for the first time, and whether what it says helps.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use crate::support::{command, folder, images, pipe, pipe_in, root, tiny};

#[test]
fn a_plan_can_be_made_for_a_machine_that_is_not_here() {
    let dir = folder("a.yaml", &tiny(8).replace("device: cpu, ", ""));
    let plan = |args: &[&str]| pipe_in(dir.path(), &[&["plan", "a.yaml"], args].concat());
    let human = plan(&["--device", "cuda"]).expect(0);
    assert!(human.out.contains("8 steps") && human.out.contains("on cuda in bf16"), "{}", human.out);
    assert!(human.out.contains("not measured") && !human.out.contains("program  "), "{}", human.out);
    let json = |args: &[&str]| plan(&[args, &["--format", "json"]].concat()).expect(0).json();
    let (cpu, cuda) = (json(&["--device", "cpu"]), json(&["--device", "cuda"]));
    let weights = |plan: &serde_json::Value| plan["nodes"]["unet"]["resident"][0]["bytes"].as_u64().unwrap();
    // Half the bytes a value, rounded up a little for none.
    assert_eq!(weights(&cpu), 2 * weights(&cuda));
    assert_eq!((&cpu["device"], &cpu["precision"]), (&"cpu".into(), &"f32".into()));
    assert!(cuda["not_counted"].as_array().is_some_and(|list| !list.is_empty()));
    // A type that no CPU computes in means a GPU.
    let bf16 = json(&["--set", "train.precision=bf16"]);
    assert_eq!((&bf16["device"], &bf16["precision"]), (&"cuda".into(), &"bf16".into()));
    pipe_in(dir.path(), &["check", "a.yaml", "--set", "train.precision=bf16"]).expect(0);
    // A contradiction is one on every machine.
    let both = plan(&["--device", "cpu", "--set", "train.precision=bf16"]).expect(1);
    assert!(both.err.contains("the CPU computes in f32 only") && both.err.contains("--set"), "{}", both.err);
}

/// Without GPU features a run is refused at the flag before its folder is made.
#[cfg(not(feature = "cuda"))]
#[test]
fn only_a_run_needs_the_device() {
    let dir = folder("a.yaml", &tiny(2));
    let warned = pipe_in(dir.path(), &["check", "a.yaml", "--device", "cuda"]).expect(0);
    assert!(warned.out.contains("warning[P0904]") && warned.out.contains("planned here, not run"), "{}", warned.out);
    let ran = pipe_in(dir.path(), &["run", "a.yaml", "--device", "cuda"]).expect(1);
    assert!(ran.err.contains("error[P0904]") && ran.err.contains("--> --device"), "{}", ran.err);
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn flags_are_blamed_by_their_name() {
    let dir = folder("a.yaml", &tiny(2));
    let run = |args: &[&str]| pipe_in(dir.path(), &[&["run", "a.yaml"], args].concat());
    let device = run(&["--device", "foo"]).expect(2);
    assert!(device.err.contains("'foo' for '--device <DEVICE>': devices are auto, cpu"), "{}", device.err);
    for steps in ["0", "1.5"] {
        let ran = run(&["--steps", steps]).expect(2);
        assert!(ran.err.contains("--steps") && ran.err.contains("a whole number of 1 or more"), "{}", ran.err);
    }
    let file = run(&["--output", "a.yaml"]).expect(1);
    assert!(file.err.contains("`a.yaml` is a file") && file.err.contains("--> --output\n"), "{}", file.err);
    #[cfg(target_os = "linux")]
    {
        let nowhere = run(&["--output", "/proc/nowhere"]).expect(1);
        assert!(nowhere.err.contains("error[P0903]") && nowhere.err.contains("--> --output\n"), "{}", nowhere.err);
        assert!(!nowhere.err.contains("results go to"), "{}", nowhere.err);
    }
}

#[test]
fn an_override_takes_the_place_of_what_it_excludes() {
    let dir = folder("a.yaml", &tiny(8));
    let steps = |args: &[&str]| {
        let ran = pipe_in(dir.path(), &[&["plan", "a.yaml", "--format", "json"], args].concat());
        ran.expect(0).json()["steps"].as_u64().unwrap()
    };
    let epoch = steps(&["--set", "train.epochs=1"]);
    assert_eq!(steps(&["--set", "train.epochs=3"]), 3 * epoch);
    assert_eq!(steps(&["--set", "train.steps=null", "--set", "train.epochs=2"]), 2 * epoch);
    assert_eq!(steps(&["--set", "nodes.preview=null"]), 8);
    let both = pipe_in(dir.path(), &["check", "a.yaml", "--set", "train.epochs=3", "--set", "train.steps=4"]).expect(1);
    assert!(both.out.contains("error[P0108]"), "{}", both.out);
    let misspelt = |set: &str| pipe_in(dir.path(), &["check", "a.yaml", "--set", set]).expect(1).out;
    let out = misspelt("nodes.adamw.lerning_rate=2e-4");
    assert!(out.contains("did you mean `learning_rate`?"), "{out}");
    let out = misspelt("nodes.preview.prompts[0].promt=x");
    assert!(out.contains("did you mean `prompt`?"), "{out}");
    assert!(misspelt("=5").contains("there is no field before the `=`"));
    let out = misspelt("nodes.photos.path=");
    assert!(out.contains("has no value") && out.contains("there is no default"), "{out}");
}

#[test]
fn other_files_are_told_from_documents() {
    let dir = folder("doc.yaml", &tiny(2));
    let check = |name: &str| pipe_in(dir.path(), &["check", name]).expect(1).out;
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    // YAML by another name, TOML by another name, and the other program's set-up.
    write("doc.toml", tiny(2).as_bytes());
    let out = check("doc.toml");
    assert!(out.contains("this looks like YAML") && out.matches("error[").count() == 1, "{out}");
    write("toml.yaml", b"version = 1\nname = \"x\"\n\n[train]\nsteps = 3\n");
    let out = check("toml.yaml");
    assert!(out.contains("this looks like TOML") && out.matches("error[").count() == 1, "{out}");
    write(
        "kohya.toml",
        b"pretrained_model_name_or_path = \"xl.safetensors\"\nnetwork_module = \"networks.lora\"\nnetwork_dim = 8\n",
    );
    let out = check("kohya.toml");
    assert!(out.contains("error[P0018]") && out.contains("pipe migrate sd-scripts"), "{out}");
    assert_eq!(out.matches("error[").count(), 1, "{out}");
    // Bytes that are no text, or not this text.
    let utf16: Vec<u8> = "\u{feff}version: 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    write("utf16.yaml", &utf16);
    assert!(check("utf16.yaml").contains("is UTF-16 text"));
    write("latin.yaml", b"version: 1\nname: caf\xe9\n");
    let out = check("latin.yaml");
    assert!(out.contains("--> latin.yaml:2:10") && out.contains("Latin-1"), "{out}");
    fs::copy(
        fs::read_dir(images())
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "png"))
            .unwrap(),
        dir.path().join("p.png"),
    )
    .unwrap();
    assert!(check("p.png").contains("is a PNG image"));
    let weights = root().join("tests/fixtures/lora_trajectory/init.safetensors");
    let out = check(&weights.display().to_string());
    assert!(out.contains("is a safetensors file") && out.contains("pipe inspect"), "{out}");
}

#[test]
fn a_document_can_come_from_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    for (text, code) in [(tiny(2), 0), ("version = 1\nname = \"x\"\n[nodes.a]\ntype = \"x\"\n".to_owned(), 1)] {
        let mut child = command(dir.path());
        child.args(["check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let ran = crate::support::Ran::of(child.wait_with_output().unwrap()).expect(code);
        assert!(code == 0 || ran.out.contains("--> <stdin>:4:8"), "{}", ran.out);
    }
}

#[test]
fn one_missing_file_is_one_error_with_all_its_places() {
    let model = root().join("tests/fixtures/diffusers_dir").display().to_string();
    let text = tiny(2).replace(&model, "gone.safetensors");
    let dir = folder("a.yaml", &text);
    let human = pipe_in(dir.path(), &["check", "a.yaml"]).expect(1);
    assert_eq!(human.out.matches("error[P0301]").count(), 1, "{}", human.out);
    assert!(human.out.contains("here too") && human.err.contains("1 error"), "{}\n{}", human.out, human.err);
    // Programs mark every place.
    let json = pipe_in(dir.path(), &["check", "a.yaml", "--format", "json"]).expect(1).json();
    let lines: Vec<&serde_json::Value> = json.as_array().unwrap().iter().map(|one| &one["line"]).collect();
    assert_eq!(lines.len(), 2, "{json:#}");
    assert_ne!(lines[0], lines[1]);
    for name in ["runwayml/stable-diffusion-v1-5", "https://example.com/x.safetensors"] {
        let set = format!("nodes.unet.weights={name}");
        let out = pipe_in(dir.path(), &["check", "a.yaml", "--set", &set]).expect(1).out;
        assert!(out.contains("`pipe` downloads nothing"), "{out}");
    }
}

#[test]
fn a_drawing_needs_no_files() {
    let dir = folder("a.yaml", &tiny(2).replace("path: /", "path: nowhere/"));
    let ran = pipe_in(dir.path(), &["graph", "a.yaml", "--format", "mermaid", "--device", "cuda"]).expect(0);
    assert!(ran.out.starts_with("flowchart") && !ran.err.contains("error["), "{}", ran.err);
}

#[test]
fn names_of_other_trainers_are_known() {
    let dir = folder(
        "a.yaml",
        &tiny(2)
            .replace("rank: 4, dropout: 0.1", "network_dim: 4")
            .replace("accumulate: 2", "gradient_accumulation_steps: 2"),
    );
    let out = pipe_in(dir.path(), &["check", "a.yaml"]).expect(1).out;
    assert!(out.contains("what other trainers call `network_dim` is `rank` here"), "{out}");
    assert!(out.contains("`gradient_accumulation_steps` is `accumulate` here"), "{out}");
    // Each name points at a field that there is.
    for (name, target) in pipe_core::check::foreign::targets() {
        let ran = pipe(&["explain", target]);
        assert_eq!(ran.code, 0, "{name} → {target}: {}", ran.err);
    }
}

#[test]
fn images_that_are_not_used_as_meant_are_told() {
    let dir = folder("a.yaml", &tiny(2).replace(&images().display().to_string(), "photos"));
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for entry in fs::read_dir(images()).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, photos.join(entry.file_name().unwrap())).unwrap();
    }
    pipe_in(dir.path(), &["check", "a.yaml"]).expect(0);
    fs::write(photos.join("x.TIFF"), "").unwrap();
    fs::write(photos.join("y.gif"), "").unwrap();
    fs::create_dir(photos.join("more")).unwrap();
    fs::write(photos.join("more/z.png"), "").unwrap();
    let out = pipe_in(dir.path(), &["check", "a.yaml"]).expect(0).out;
    assert!(out.contains("warning[P0330]: 3 files or folders with images are not read"), "{out}");
    let out = pipe_in(dir.path(), &["check", "a.yaml", "--set", "nodes.photos.resolution=512"]).expect(0).out;
    assert!(out.contains("warning[P0331]") && out.contains("64×64 pixels"), "{out}");
    // Held-out images that are trained on.
    let held = "  held_photos: { type: loader.images, path: ./photos, resolution: 64 }\n  \
                held: { type: cacher.memory, samples: held_photos, vae: vae, text: clip }\n  \
                measure: { type: logger.validation, loss: loss, batch: held, passes: 1 }\n  metrics:";
    let text = fs::read_to_string(dir.path().join("a.yaml")).unwrap().replace("  metrics:", held);
    fs::write(dir.path().join("b.yaml"), text).unwrap();
    let out = pipe_in(dir.path(), &["check", "b.yaml"]).expect(0).out;
    assert!(out.contains("warning[P0332]: `held_photos` reads the same as `photos`"), "{out}");
}

#[test]
fn bare_names_are_explained() {
    let explain = |topic: &str| pipe(&["explain", topic]).expect(0).out;
    assert!(explain("rank").contains("adapter.lora") && explain("rank").contains("rank"));
    assert!(explain("learning_rate").contains("optimizer.adamw"));
    assert!(explain("samples").contains("cacher.disk"));
    assert!(explain("batch_size").contains("train"));
    assert!(explain("nodes").contains("pipe nodes"));
    assert_eq!(explain("lora"), explain("adapter.lora"));
    assert!(explain("optimizer").contains("optimizer.adamw"));
}

#[test]
fn misspelt_commands_and_restored_files() {
    let ran = pipe(&["chekc", "a.yaml"]).expect(2);
    assert!(ran.err.contains("did you mean `check`?"), "{}", ran.err);
    assert!(pipe(&["train"]).expect(2).err.contains("did you mean `run`?"));
    let dir = tempfile::tempdir().unwrap();
    pipe_in(dir.path(), &["init", "sd15-lora"]).expect(0);
    let document = dir.path().join("sd15-lora.pipe.yaml");
    let mine = fs::read_to_string(&document).unwrap().replace("rank: 16", "rank: 8") + "# mine\n";
    fs::write(&document, &mine).unwrap();
    fs::remove_file(dir.path().join("pipeline.schema.json")).unwrap();
    let ran = pipe_in(dir.path(), &["init", "sd15-lora"]).expect(0);
    assert!(ran.err.contains("was left as it is"), "{}", ran.err);
    assert!(dir.path().join("pipeline.schema.json").exists());
    assert_eq!(fs::read_to_string(&document).unwrap(), mine);
    pipe_in(dir.path(), &["init", "sd15-lora"]).expect(1);
}

#[test]
fn completions_offer_values_and_nothing_hidden() {
    let script = pipe(&["completions", "bash"]).expect(0).out;
    assert!(!script.contains("generate"), "the makers' command is not for users");
    for word in ["sd15-lora", "adapter.lora", "optimizer.adamw", "auto cpu cuda wgpu", "P0104"] {
        assert!(script.contains(word), "{word}");
    }
}
