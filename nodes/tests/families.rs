//! Every family through a whole run at reduced size: caching, LoRA with and without text encoders, previews, full
//! fine-tuning, and whole models saved in each layout and read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipe_core::document::Syntax;
use pipe_core::execute::{RunOptions, Status, run};
use pipe_core::run::{Progress, StopFlag};
use pipe_data::weights::{Component, ComponentWeights, DType, TensorOut, WeightFile, write_safetensors};
use pipe_networks::clip::{Activation, ClipConfig, EOS, WINDOW};
use pipe_networks::flux::FluxConfig;
use pipe_networks::gemma::GemmaConfig;
use pipe_networks::lumina_next::LuminaNextConfig;
use pipe_networks::lumina2::Lumina2Config;
use pipe_networks::mmdit::MmditConfig;
use pipe_networks::t5::T5Config;
use pipe_networks::unet::{SizeConditions, UnetConfig};
use pipe_networks::vae::VaeConfig;
use pipe_networks::{Network, Shapes};
use pipe_ops::rng::{self, Purpose};

struct Quiet;

impl Progress for Quiet {
    fn tick(&self, _: &str, _: u64, _: u64) {}
    fn say(&self, _: &str) {}
    fn warn(&self, line: &str) {
        // Of a vocabulary this small every word is many tokens.
        assert!(line.contains("is cut off"), "{line}");
    }
}

/// A file of random tensors: small matrices, norms near one, small biases.
fn random_file(path: &Path, shapes: &Shapes) {
    let tensors = shapes.iter().map(|(name, shape)| {
        let len: usize = shape.iter().product();
        let mut stream = rng::named_stream(3, Purpose::Init, 7, name);
        let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f32;
        let values: Vec<f32> = rng::normal(&mut stream, len)
            .into_iter()
            .map(|x| match shape.len() {
                1 if name.ends_with("bias") => 0.02 * x,
                1 => 1.0 + 0.05 * x,
                _ => 0.7 * x / fan_in.sqrt(),
            })
            .collect();
        TensorOut::f32(name.clone(), DType::F32, shape.clone(), values)
    });
    write_safetensors(path, tensors, &BTreeMap::new()).unwrap();
}

fn clip(width: usize, activation: Activation, projection: Option<usize>) -> ClipConfig {
    ClipConfig {
        width,
        layers: 2,
        heads: 2,
        mlp: 2 * width,
        vocab: 49408,
        positions: WINDOW,
        activation,
        projection,
        eos: EOS,
    }
}

fn unet(context: usize, sizes: Option<SizeConditions>) -> Network {
    Network::Unet(UnetConfig {
        channels: 4,
        widths: vec![8, 8],
        layers: 1,
        depth: vec![1, 2],
        mid_depth: 2,
        heads: vec![2, 2],
        context,
        time: 16,
        groups: 4,
        linear_projection: true,
        sizes,
    })
}

/// A family at reduced size: its files in a folder, and the lines of its nodes.
struct Tiny {
    name: &'static str,
    network: Network,
    denoiser: Component,
    model: String,
    vae: &'static str,
    texts: Vec<(&'static str, &'static str, String)>,
    loss: &'static str,
    preview: &'static str,
}

const L: usize = 16;
const G: usize = 24;
const T5: usize = 40;
const GEMMA: usize = 24;

fn families() -> Vec<Tiny> {
    let hints = "config: { heads: [2, 2], norm_groups: 4 }";
    let clip_l = |family: &str| {
        let line =
            format!("type: encoder.clip_l, weights: clip_l.safetensors, family: {family}, config: {{ heads: 2 }}");
        ("clip_l", "lora_te1", line)
    };
    let clip_g = || {
        let line = "type: encoder.clip_g, weights: clip_g.safetensors, config: { heads: 2 }".to_string();
        ("clip_g", "lora_te2", line)
    };
    let t5 = || ("t5", "lora_te3", "type: encoder.t5xxl, weights: t5.safetensors, max_tokens: 24".to_string());
    let gemma = |more: &str| {
        let line = format!(
            "type: encoder.gemma, weights: gemma.safetensors, tokenizer: tokenizer.json, max_tokens: 24, \
             config: {{ head_dim: 8 }}{more}"
        );
        ("gemma", "", line)
    };
    let vae4 = "weights: vae4.safetensors, scaling_factor: 0.2, config: { norm_groups: 4 }";
    let vae16 = "weights: vae16.safetensors, scaling_factor: 0.36, shift_factor: 0.1, config: { norm_groups: 4 }";
    let tiny = |name, network, denoiser, config: &str, vae, texts, loss, preview| {
        let comma = if config.is_empty() { "" } else { ", " };
        let model = format!("type: model.{name}, weights: {name}.safetensors{comma}{config}");
        Tiny { name, network, denoiser, model, vae, texts, loss, preview }
    };
    vec![
        tiny(
            "sd2",
            unet(G, None),
            Component::Unet,
            "prediction: v, config: { heads: [2, 2], norm_groups: 4 }",
            vae4,
            vec![(
                "clip_h",
                "lora_te",
                "type: encoder.clip_h, weights: clip_h.safetensors, config: { heads: 2 }".into(),
            )],
            "loss.diffusion",
            ", sampler: dpmpp2m",
        ),
        tiny(
            "sdxl",
            unet(L + G, Some(SizeConditions { pooled: G, embedding: 256 })),
            Component::Unet,
            hints,
            vae4,
            vec![clip_l("sdxl"), clip_g()],
            "loss.diffusion",
            ", sampler: euler_ancestral",
        ),
        tiny(
            "sd3",
            Network::Mmdit(MmditConfig {
                width: 16,
                depth: 2,
                heads: 2,
                channels: 16,
                patch: 2,
                context: T5,
                pooled: L + G,
                positions: 8,
                qk_norm: true,
                dual: 1,
                options: Default::default(),
            }),
            Component::Mmdit,
            "",
            vae16,
            vec![clip_l("sd3"), clip_g(), t5()],
            "loss.flow",
            "",
        ),
        tiny(
            "flux",
            Network::Flux(FluxConfig {
                width: 16,
                heads: 2,
                double: 1,
                single: 2,
                channels: 16,
                context: T5,
                pooled: L,
                mlp: 64,
                guidance: true,
                axes: [2, 4, 2],
            }),
            Component::Flux,
            "config: { axes: [2, 4, 2] }",
            vae16,
            vec![clip_l("flux"), t5()],
            "loss.flow",
            ", embedded_guidance: 2.5",
        ),
        tiny(
            "lumina2",
            Network::Lumina2(Lumina2Config {
                width: 24,
                layers: 2,
                refiners: 1,
                heads: 4,
                kv_heads: 2,
                ff: 16,
                context: GEMMA,
                time: 16,
                channels: 16,
                patch: 2,
                axes: [2, 2, 2],
                norm_final: true,
            }),
            Component::Lumina2,
            "",
            vae16,
            vec![gemma(", system_prompt: You draw.")],
            "loss.flow",
            "",
        ),
        tiny(
            "lumina_next",
            Network::LuminaNext(LuminaNextConfig {
                width: 32,
                layers: 2,
                heads: 4,
                kv_heads: 2,
                ff: 24,
                context: GEMMA,
                time: 16,
                channels: 4,
                out_channels: 8,
            }),
            Component::LuminaNext,
            "",
            vae4,
            vec![gemma("")],
            "loss.flow",
            "",
        ),
    ]
}

/// All files of all families, made once.
fn files() -> &'static Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let file = |name: &str| folder.path().join(format!("{name}.safetensors"));
            for family in families() {
                random_file(&file(family.name), &family.network.shapes());
            }
            random_file(&file("clip_l"), &clip(L, Activation::QuickGelu, None).shapes());
            random_file(&file("clip_h"), &clip(G, Activation::Gelu, None).shapes());
            random_file(&file("clip_g"), &clip(G, Activation::Gelu, Some(G)).shapes());
            let t5 = T5Config { width: T5, layers: 2, heads: 2, head_dim: 8, ff: 32, vocab: 32128, buckets: 32 };
            random_file(&file("t5"), &t5.shapes());
            let gemma = GemmaConfig {
                width: GEMMA,
                layers: 3,
                heads: 4,
                kv_heads: 2,
                head_dim: 8,
                mlp: 32,
                vocab: 1100,
                second: true,
                softcap: None,
            };
            random_file(&file("gemma"), &gemma.all_shapes());
            let vae = |latent| VaeConfig {
                widths: vec![8, 8, 8],
                layers: 1,
                latent,
                quant: latent == 4,
                groups: 4,
                attention: true,
            };
            random_file(&file("vae4"), &vae(4).shapes());
            random_file(&file("vae16"), &vae(16).shapes());
            let fixtures =
                Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../tests/fixtures/gemma_small");
            std::fs::copy(fixtures.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
            folder
        })
        .path()
}

fn images() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../pipelines/quickstart/images/heldout")
}

/// The document's head: settings, data, encoders, model.
fn head(family: &Tiny, cached: bool) -> String {
    let names: Vec<&str> = family.texts.iter().map(|t| t.0).collect();
    let mut text = format!(
        "version: 1\nname: tiny\ntrain: {{ device: cpu, steps: 2, batch_size: 2 }}\nnodes:\n  \
         photos: {{ type: loader.images, path: {}, resolution: 32 }}\n  vae: {{ type: encoder.vae, {} }}\n",
        images().display(),
        family.vae
    );
    for (name, _, line) in &family.texts {
        text += &format!("  {name}: {{ {line} }}\n");
    }
    let of_text = if cached { format!(", text: [{}]", names.join(", ")) } else { String::new() };
    text += &format!("  cached: {{ type: cacher.memory, samples: photos, vae: vae{of_text} }}\n");
    text += &format!("  model: {{ {} }}\n", family.model);
    text
}

/// The document's end: loss, optimizer, preview.
fn tail(family: &Tiny, learns: &str) -> String {
    let names: Vec<&str> = family.texts.iter().map(|t| t.0).collect();
    format!(
        "  loss: {{ type: {}, model: {learns}, batch: cached }}\n  \
         adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-3 }}\n  \
         metrics: {{ type: logger.metrics, update: adamw }}\n  \
         preview: {{ type: sampler.preview, model: {learns}, vae: vae, text: [{}], width: 32, height: 32, steps: 3, \
         guidance_scale: 3, prompts: [{{ prompt: a face, negative_prompt: a cat }}]{} }}\n",
        family.loss,
        names.join(", "),
        family.preview
    )
}

fn train(out: &Path, name: &str, text: &str) {
    let registry = pipe_nodes::registry();
    let checked = pipe_core::check::check_text(&registry, text, &files().join("run.yaml"), Syntax::Yaml, &[]);
    let format = pipe_core::diagnostic::Format::Concise;
    let report = pipe_core::diagnostic::render(&checked.diagnostics, checked.files(), format, false);
    assert!(checked.ok(), "{name}: {report}\n{text}");
    let options =
        RunOptions { folder: out.into(), resume: false, progress: Arc::new(Quiet), stop: StopFlag::default() };
    let outcome = run(&registry, &checked, options).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!(outcome.status, Status::Finished, "{name}");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 2, "{name}");
    let sheet = out.join("samples/preview/before-after.png");
    assert!(sheet.is_file(), "{name}: no preview");
}

#[test]
fn a_lora_of_every_family() {
    for family in families() {
        let out = tempfile::tempdir().unwrap();
        let text = head(&family, true)
            + "  lora: { type: adapter.lora, model: model, rank: 2 }\n"
            + &tail(&family, "lora")
            + "  save: { type: saver.adapter, adapter: lora, update: adamw }\n";
        train(&out.path().join("run"), family.name, &text);
        let file = WeightFile::open(out.path().join("run/checkpoints/tiny.safetensors")).unwrap();
        assert!(file.names().all(|n| n.starts_with("lora_unet_")), "{}", family.name);
        let up = file.names().filter(|n| n.ends_with("lora_up.weight"));
        let moved = up.filter(|n| file.f32(n).unwrap().iter().any(|x| *x != 0.0)).count();
        assert!(3 * moved > file.names().len() - 3 * 4, "{}: only {moved} factors moved", family.name);
    }
}

#[test]
fn text_encoders_learn_with_their_family() {
    for family in families().into_iter().filter(|f| f.texts.iter().all(|t| !t.1.is_empty())) {
        let out = tempfile::tempdir().unwrap();
        let names: Vec<&str> = family.texts.iter().map(|t| t.0).collect();
        let text = head(&family, false)
            + &format!("  lora: {{ type: adapter.lora, model: model, rank: 2, text: [{}] }}\n", names.join(", "))
            + &tail(&family, "lora")
            + "  save: { type: saver.adapter, adapter: lora, update: adamw }\n";
        train(&out.path().join("run"), family.name, &text);
        let file = WeightFile::open(out.path().join("run/checkpoints/tiny.safetensors")).unwrap();
        for (_, prefix, _) in &family.texts {
            let own = format!("{prefix}_");
            let moved = file
                .names()
                .filter(|n| n.starts_with(&own) && n.ends_with("lora_up.weight"))
                .filter(|n| file.f32(n).unwrap().iter().any(|x| *x != 0.0))
                .count();
            // CLIP-L's pooled vector alone reaches FLUX, T5 and bigG reach all of theirs.
            assert!(moved >= 6, "{}: {moved} factors of {prefix} moved", family.name);
        }
    }
}

/// `text_dropout` reaches cached text, in training alone: what is measured is the same, the step is another.
#[test]
fn sd3_does_without_cached_text() {
    let family = families().into_iter().find(|family| family.name == "sd3").unwrap();
    let numbers = |options: &str| {
        let out = tempfile::tempdir().unwrap();
        let model = format!("  model: {{ {} }}", family.model);
        let text = head(&family, true).replace(&model, &model.replace(" }", &format!("{options} }}")))
            + "  lora: { type: adapter.lora, model: model, rank: 2 }\n"
            + &tail(&family, "lora")
            + "  held: { type: logger.validation, loss: loss, batch: cached, every: { steps: 1 } }\n";
        train(&out.path().join("run"), family.name, &text);
        let first = |file: &str, name: &str| {
            let text = std::fs::read_to_string(out.path().join("run").join(file)).unwrap();
            serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap()).unwrap()[name].as_f64().unwrap()
        };
        (first("validation.jsonl", "loss"), first("metrics.jsonl", "loss"))
    };
    let (measured, loss) = numbers("");
    let (still_measured, without) = numbers(", text_dropout: { clip_l: 1, clip_g: 1, t5xxl: 1 }");
    assert!(measured == still_measured && loss != without, "{measured} {still_measured}, {loss} {without}");
}

/// Losses of the two steps, and what is measured after each, of a LoRA at a rate.
fn measured(family: &Tiny, head: &str, rate: &str) -> [Vec<f64>; 2] {
    let out = tempfile::tempdir().unwrap();
    let text = head.to_owned()
        + "  lora: { type: adapter.lora, model: model, rank: 2 }\n"
        + &tail(family, "lora").replace("learning_rate: 1e-3", &format!("learning_rate: {rate}"))
        + "  held: { type: logger.validation, loss: loss, batch: cached, every: { steps: 1 } }\n";
    train(&out.path().join("run"), family.name, &text);
    ["metrics.jsonl", "validation.jsonl"].map(|file| {
        let text = std::fs::read_to_string(out.path().join("run").join(file)).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64();
        text.lines().filter_map(loss).collect()
    })
}

/// Weights that stay as they are have one held-out loss, whatever timesteps training draws.
#[test]
fn every_family_measures_the_same_each_time() {
    for family in families() {
        let [losses, held] = measured(&family, &head(&family, true), "0.0");
        assert!(losses.len() == 2 && losses[0] != losses[1], "{}: {losses:?}", family.name);
        assert!(held.len() >= 2 && held.iter().all(|loss| *loss == held[0]), "{}: {held:?}", family.name);
    }
}

/// Padding that SD3's encoders hide is hidden whether their outputs are cached or made in the step.
#[test]
fn sd3_hides_padding_cached_and_live() {
    let family = families().into_iter().find(|family| family.name == "sd3").unwrap();
    let plain = head(&family, true);
    let mut masked = plain.clone();
    for (name, _, line) in &family.texts {
        let own = format!("  {name}: {{ {line} }}\n");
        assert!(masked.contains(&own));
        masked = masked.replace(&own, &format!("  {name}: {{ {line}, attention_mask: true }}\n"));
    }
    let live = masked.replace(", text: [", ", live_text: [");
    let [plain, cached, live] = [plain, masked, live].map(|head| measured(&family, &head, "1e-3"));
    assert_eq!(cached, live);
    assert!(plain[0] != cached[0] && plain[1] != cached[1], "{plain:?} {cached:?}");
}

#[test]
fn whole_models_in_every_layout() {
    for family in families() {
        let out = tempfile::tempdir().unwrap();
        let names: Vec<&str> = family.texts.iter().map(|t| t.0).collect();
        let texts = names.join(", ");
        let mut text = head(&family, true) + "  full: { type: adapter.full, model: model }\n" + &tail(&family, "full");
        for (name, parts) in [
            ("single_file", format!(", vae: vae, text: [{texts}]")),
            ("diffusers", format!(", vae: vae, text: [{texts}]")),
            ("ckpt", format!(", vae: vae, text: [{texts}]")),
            ("model_only", String::new()),
        ] {
            text += &format!(
                "  {name}: {{ type: saver.checkpoint, model: full, name: {name}, format: {name}, dtype: f32{parts} }}\n"
            );
        }
        train(&out.path().join("run"), family.name, &text);
        let saved = out.path().join("run/checkpoints");
        let before =
            ComponentWeights::open(files().join(format!("{}.safetensors", family.name)), family.denoiser).unwrap();
        let alone = ComponentWeights::open(saved.join("model_only.safetensors"), family.denoiser).unwrap();
        let mut moved = 0;
        for file in ["single_file.safetensors", "diffusers", "ckpt.ckpt"] {
            let whole = ComponentWeights::open(saved.join(file), family.denoiser).unwrap();
            assert_eq!(whole.names().len(), before.names().len(), "{}: {file}", family.name);
            for name in before.names() {
                let (a, b) = (whole.f32(name).unwrap(), alone.f32(name).unwrap());
                assert_eq!(a, b, "{}: {file}: {name}", family.name);
                moved += (a != before.f32(name).unwrap()) as usize;
            }
            ComponentWeights::open(saved.join(file), Component::Vae).unwrap();
            for (text, ..) in &family.texts {
                let component = match *text {
                    "clip_g" => Component::ClipG,
                    "t5" => Component::T5,
                    "gemma" => Component::Gemma,
                    _ => Component::TextEncoder,
                };
                let source = ComponentWeights::open(files().join(format!("{text}.safetensors")), component).unwrap();
                let saved = ComponentWeights::open(saved.join(file), component)
                    .unwrap_or_else(|e| panic!("{}: {file}: {text}: {e}", family.name));
                for name in source.names() {
                    assert_eq!(saved.f32(name).unwrap(), source.f32(name).unwrap(), "{}: {file}: {name}", family.name);
                }
            }
        }
        let index = std::fs::read_to_string(saved.join("diffusers/model_index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        for (number, (text, ..)) in family.texts.iter().enumerate() {
            let (folder, class, file) = match (*text, number) {
                ("gemma", _) => ("tokenizer", "GemmaTokenizerFast", "tokenizer.json"),
                ("t5", 1) => ("tokenizer_2", "T5TokenizerFast", "spiece.model"),
                ("t5", _) => ("tokenizer_3", "T5TokenizerFast", "spiece.model"),
                (_, 0) => ("tokenizer", "CLIPTokenizer", "vocab.json"),
                _ => ("tokenizer_2", "CLIPTokenizer", "merges.txt"),
            };
            assert_eq!(index[folder], serde_json::json!(["transformers", class]), "{}", family.name);
            for file in [file, "tokenizer_config.json", "special_tokens_map.json"] {
                assert!(saved.join("diffusers").join(folder).join(file).is_file(), "{}: {folder}/{file}", family.name);
            }
        }
        assert!(moved > before.names().len(), "{}: {moved} tensors moved", family.name);
    }
}
