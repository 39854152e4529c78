//! `inspect`: fixtures of every layout, and files that are not what their name says.

use std::fs;

use serde_json::Value as Json;

use crate::support::{folder, pipe, pipe_in, tiny};

fn inspect(path: &str) -> Json {
    let found = pipe(&["inspect", path, "--format", "json"]).expect(0).json();
    // What programs read, people can read as well.
    let human = pipe(&["inspect", path]).expect(0).out;
    for part in found["parts"].as_array().expect("parts") {
        assert!(human.contains(part["architecture"].as_str().expect("a name")), "{human}");
    }
    found
}

#[test]
fn a_whole_model_in_one_file() {
    let found = inspect("tests/fixtures/single_file/model.safetensors");
    let part = &found["parts"][0];
    assert_eq!(part["architecture"], "Stable Diffusion 1.x");
    assert_eq!(part["layout"], "single file, names of the original code");
    assert_eq!(part["contains"], serde_json::json!(["U-Net", "VAE", "CLIP-L"]));
    assert!(part["tensors"].as_u64().unwrap() > 100 && part["dtypes"]["F32"]["parameters"].as_u64().unwrap() > 1000);
}

#[test]
fn a_diffusers_folder_and_its_parts() {
    let found = inspect("tests/fixtures/diffusers_dir");
    let names: Vec<&str> =
        found["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["text_encoder", "unet", "vae"]);
    assert_eq!(found["parts"][2]["architecture"], "VAE with 4 latent channels");
    let alone = inspect("tests/fixtures/diffusers_dir/unet");
    assert_eq!(alone["parts"][0]["parameters"], found["parts"][1]["parameters"]);
    assert_eq!(alone["parts"][0]["layout"], "Diffusers folder");
    let vae16 = inspect("tests/fixtures/vae16/diffusion_pytorch_model.safetensors");
    assert_eq!(vae16["parts"][0]["architecture"], "VAE with 16 latent channels");
}

#[test]
fn tensors_are_listed_on_demand() {
    let path = "tests/fixtures/vae16/diffusion_pytorch_model.safetensors";
    let found = pipe(&["inspect", path, "--tensors", "--format", "json"]).expect(0).json();
    let part = &found["parts"][0];
    assert_eq!(part["tensor_list"].as_array().map(Vec::len), part["tensors"].as_u64().map(|n| n as usize));
    assert!(inspect(path)["parts"][0].get("tensor_list").is_none());
    assert!(pipe(&["inspect", path, "--tensors"]).expect(0).out.contains("decoder.conv_in.weight F32 ["));
}

/// A safetensors file of f32 tensors of ones.
fn safetensors(tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let metadata: serde_json::Map<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), Json::from(*v))).collect();
    header.insert("__metadata__".into(), metadata.into());
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        let elements: usize = shape.iter().product();
        data.extend((0..elements).flat_map(|_| 4.0f32.to_le_bytes()));
        header.insert(
            (*name).into(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Json::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

#[test]
fn a_lora_tells_rank_alpha_and_base() {
    let dir = tempfile::tempdir().unwrap();
    let name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    let names = [format!("{name}.lora_down.weight"), format!("{name}.lora_up.weight"), format!("{name}.alpha")];
    let tensors: [(&str, &[usize]); 3] = [(&names[0], &[8, 768]), (&names[1], &[320, 8]), (&names[2], &[])];
    let metadata = [("ss_network_dim", "8"), ("ss_steps", "1200"), ("ss_sd_model_name", "v1-5.safetensors")];
    fs::write(dir.path().join("lora.safetensors"), safetensors(&tensors, &metadata)).unwrap();
    let part = &pipe_in(dir.path(), &["inspect", "lora.safetensors", "--format", "json"]).expect(0).json()["parts"][0];
    assert_eq!(part["architecture"], "LoRA (kohya naming)");
    let adapter = &part["adapter"];
    assert_eq!((&adapter["modules"], &adapter["ranks"][0], &adapter["alphas"][0]), (&1.into(), &8.into(), &4.0.into()));
    assert_eq!(adapter["base"], "v1-5.safetensors");
    let human = pipe_in(dir.path(), &["inspect", "lora.safetensors"]).expect(0).out;
    assert!(human.contains("made for SD1") && human.contains("1200") && human.contains("rank"), "{human}");
}

/// What `pipe` itself saves is known again, with all the layers that were trained.
#[test]
fn every_kind_of_adapter_is_named_with_its_layers() {
    let dir = folder("tiny.yaml", &tiny(1).replace(", dropout: 0.1", ""));
    let mut layers = Vec::new();
    for (kind, field, architecture, size) in [
        ("lora", "rank: 2", "LoRA (kohya naming)", "ranks"),
        ("loha", "rank: 2", "LoRA (LyCORIS LoHa)", "ranks"),
        ("lokr", "rank: 2", "LoRA (LyCORIS LoKr)", "ranks"),
        ("dora", "rank: 2", "LoRA (DoRA)", "ranks"),
        ("oft", "blocks: 2", "LoRA (OFT)", "blocks"),
        ("dylora", "rank: 2", "LoRA (kohya naming)", "ranks"),
    ] {
        let set = format!("nodes.lora={{ type: adapter.{kind}, model: unet, {field} }}");
        let output = format!("runs/{kind}");
        let args = ["run", "tiny.yaml", "--set", &set, "--set", "nodes.preview=null", "--output", &output];
        pipe_in(dir.path(), &args).expect(0);
        let file = format!("{output}/checkpoints/tiny.safetensors");
        let found = pipe_in(dir.path(), &["inspect", &file, "--format", "json"]).expect(0).json();
        let part = &found["parts"][0];
        assert_eq!(part["architecture"], architecture, "{kind}");
        layers.push(part["adapter"]["modules"].as_u64().unwrap());
        assert!(layers.last() > Some(&0), "{kind}: {part:#}");
        assert_eq!(part["adapter"][size][0], 2, "{kind}: {}", part["adapter"]);
        let human = pipe_in(dir.path(), &["inspect", &file]).expect(0).out;
        assert!(!human.contains("not given"), "{human}");
        assert_eq!(human.contains("trained as a DyLoRA"), kind == "dylora", "{human}");
    }
    // The same layers of the same model, whatever is learned of them; OFT takes attention layers alone.
    assert!(layers.iter().enumerate().all(|(at, count)| at == 4 || *count == layers[0]), "{layers:?}");
}

#[test]
fn a_torch_checkpoint_is_read_and_never_run() {
    let found = inspect("tests/fixtures/pickles/lightning.ckpt");
    let part = &found["parts"][0];
    assert_eq!((&part["tensors"], &part["metadata"]["global_step"]), (&3.into(), &"470000".into()));
    assert_eq!(part["dtypes"]["F16"]["bytes"], 144);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("evil.pt"), b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.").unwrap();
    let ran = pipe_in(dir.path(), &["inspect", "evil.pt"]).expect(1);
    assert!(ran.err.contains("refused") && ran.err.contains("`os.system`"), "{}", ran.err);
}

#[test]
fn what_is_no_weight_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = safetensors(&[("a", &[4, 4])], &[]);
    let lying = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let files: [(&str, &[u8], &str); 8] = [
        ("empty", b"", "empty"),
        ("zip", b"PK\x03\x04xxxxxxxxxxxxxxxxxxxx", "zip archive"),
        ("pickle", b"\x80\x02}q\x00.xxxxxxxxxxxxxxxxx", "pickle"),
        ("page", b"<!DOCTYPE html><html>not found</html>", "web page"),
        ("text", b"just a text that goes on for a while", "text file"),
        ("cut", &whole[..whole.len() - 9], "damaged"),
        ("lying", &lying, "damaged"),
        ("noise", &[0x93, 1, 200, 7, 3, 9, 66, 13, 255, 0, 1], "damaged"),
    ];
    for (name, bytes, word) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
        let ran = pipe_in(dir.path(), &["inspect", name]).expect(1);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(word), "{name}: {}", ran.err);
    }
    assert!(pipe_in(dir.path(), &["inspect", "nothing"]).expect(1).err.contains("does not exist"));
    assert!(pipe_in(dir.path(), &["inspect", "."]).expect(1).err.contains("no weights"));
}
