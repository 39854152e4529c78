//! Any bytes as the `config.json` of every part of a model, read by the nodes' own checks.
//!
//! Shared with the fuzz target `configs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pipe_core::check::check_text;
use pipe_core::document::Syntax;
use pipe_core::registry::Registry;
use pipe_data::weights::{DType, TensorOut, WeightFile, write_safetensors};

/// Folder in the fixtures or a file of theirs, rows of its token table where there is one, and the node that reads it
/// with what its sizes need.
const PARTS: [(&str, usize, &str); 13] = [
    ("diffusers_dir/unet", 0, "model.sd1"),
    ("lora_trajectory_sd2", 0, "model.sd2"),
    ("sdxl_unet", 0, "model.sdxl"),
    ("sd3", 0, "model.sd3"),
    ("sd35m", 0, "model.sd3"),
    ("flux", 0, "model.flux"),
    ("lumina2", 0, "model.lumina2"),
    ("lumina_next", 0, "model.lumina_next"),
    ("diffusers_dir/vae", 0, "encoder.vae, config: { norm_groups: 2 }"),
    ("vae16", 0, "encoder.vae, config: { norm_groups: 2 }"),
    ("lora_trajectory_text_sdxl/clip_l.safetensors", 49408, "encoder.clip_l"),
    ("lora_trajectory_text_sdxl/clip_g.safetensors", 49408, "encoder.clip_g"),
    ("gemma2/model.safetensors", 1100, "encoder.gemma"),
];

/// Folders of small parts, and a document that names all.
pub struct Configs {
    registry: Registry,
    folder: PathBuf,
    document: String,
}

impl Configs {
    /// Makes the parts in a folder.
    pub fn new(fixtures: &Path, folder: &Path) -> Self {
        let mut document = String::from("version: 1\nname: configs\ntrain: { device: cpu, steps: 1 }\nnodes:\n");
        for (i, (source, rows, node)) in PARTS.into_iter().enumerate() {
            let (from, to) = (fixtures.join(source), folder.join(format!("part{i}")));
            std::fs::create_dir_all(&to).unwrap();
            if rows > 0 {
                text_encoder(&from, rows, &to.join("model.safetensors"));
            } else {
                let name = "diffusion_pytorch_model.safetensors";
                std::fs::copy(from.join(name), to.join(name)).unwrap();
            }
            let tokenizer = if node == "encoder.gemma" { ", tokenizer: tokenizer.json" } else { "" };
            document += &format!("  part{i}: {{ type: {node}, weights: part{i}{tokenizer} }}\n");
        }
        std::fs::copy(fixtures.join("gemma_small/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
        Configs { registry: pipe_nodes::registry(), folder: folder.into(), document }
    }

    /// Checks the document with these bytes as each part's configuration; gives the codes of what is reported.
    pub fn check(&self, config: &[u8]) -> Vec<&'static str> {
        for i in 0..PARTS.len() {
            std::fs::write(self.folder.join(format!("part{i}")).join("config.json"), config).unwrap();
        }
        let path = self.folder.join("case.yaml");
        let checked = check_text(&self.registry, &self.document, &path, Syntax::Yaml, &[]);
        checked.diagnostics.iter().map(|fault| fault.code).collect()
    }
}

/// A text encoder of zeros with that many rows in its token table.
fn text_encoder(from: &Path, rows: usize, to: &Path) {
    let file = WeightFile::open(from).unwrap();
    let tensors = file.names().map(|name| {
        let mut shape = file.info(name).unwrap().shape.clone();
        if name.ends_with("token_embedding.weight") || name.ends_with("embed_tokens.weight") {
            shape[0] = rows;
        }
        let len = shape.iter().product();
        TensorOut::f32(name, DType::F16, shape, vec![0.0; len])
    });
    write_safetensors(to, tensors, &BTreeMap::new()).unwrap();
}
