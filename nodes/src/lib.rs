//! The node types of `pipe`, one file each, and the registry that lists them.
//!
//! A node type is a config struct (its fields, schema and reference page), its ports, a check of
//! headers and metadata, a plan, and a build. To add one: write its file, add one line to
//! [`registry`]. See CONTRIBUTING.md.

pub mod adapter;
pub mod cacher;
mod common;
pub mod encoder;
pub mod loader;
pub mod logger;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod sampler;
pub mod saver;

use std::path::PathBuf;

use pipe_core::node::Typed;
use pipe_core::registry::Registry;
use pipe_core::settings::{Precision, Settings};
use pipe_ops::DType;
use pipe_ops::backend::{self, Kind};

/// Every node type.
pub fn registry() -> Registry {
    let mut types = vec![
        Typed::<loader::images::Images>::boxed(),
        Typed::<loader::replay::ReplayLoader>::boxed(),
        Typed::<cacher::memory::MemoryCacher>::boxed(),
        Typed::<cacher::disk::DiskCacher>::boxed(),
        Typed::<encoder::vae::VaeEncoder>::boxed(),
        Typed::<encoder::clip_l::ClipL>::boxed(),
        Typed::<encoder::clip_h::ClipH>::boxed(),
        Typed::<encoder::clip_g::ClipG>::boxed(),
        Typed::<encoder::t5xxl::T5Xxl>::boxed(),
        Typed::<encoder::gemma::Gemma>::boxed(),
        Typed::<model::sd1::Sd1Model>::boxed(),
        Typed::<model::sd2::Sd2Model>::boxed(),
        Typed::<model::sdxl::SdxlModel>::boxed(),
        Typed::<model::sd3::Sd3Model>::boxed(),
        Typed::<model::flux::FluxModel>::boxed(),
        Typed::<model::lumina2::Lumina2Model>::boxed(),
        Typed::<model::lumina_next::LuminaNextModel>::boxed(),
        Typed::<adapter::lora::Lora>::boxed(),
        Typed::<adapter::loha::Loha>::boxed(),
        Typed::<adapter::lokr::Lokr>::boxed(),
        Typed::<adapter::dora::Dora>::boxed(),
        Typed::<adapter::glora::Glora>::boxed(),
        Typed::<adapter::ia3::Ia3>::boxed(),
        Typed::<adapter::diff::Diff>::boxed(),
        Typed::<adapter::oft::Oft>::boxed(),
        Typed::<adapter::diag_oft::DiagOft>::boxed(),
        Typed::<adapter::boft::Boft>::boxed(),
        Typed::<adapter::dylora::Dylora>::boxed(),
        Typed::<adapter::full::Full>::boxed(),
        Typed::<loss::diffusion::DiffusionLoss>::boxed(),
        Typed::<loss::flow::FlowLoss>::boxed(),
        Typed::<loss::autoencoder::AutoencoderLoss>::boxed(),
    ];
    types.extend(optimizer::all());
    types.extend([
        Typed::<saver::adapter::AdapterSaver>::boxed(),
        Typed::<saver::checkpoint::CheckpointSaver>::boxed(),
        Typed::<sampler::preview::Preview>::boxed(),
        Typed::<logger::metrics::Metrics>::boxed(),
        Typed::<logger::csv::Csv>::boxed(),
        Typed::<logger::tensorboard::TensorBoard>::boxed(),
        Typed::<logger::wandb::Wandb>::boxed(),
        Typed::<logger::validation::Validation>::boxed(),
    ]);
    Registry::new(types)
}

/// Folder of the shared cache: `$PIPE_CACHE`, else `pipe` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("PIPE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|p| p.join("pipe")))
        .or_else(|| from("LOCALAPPDATA").map(|p| p.join("pipe")))
        .or_else(|| from("HOME").map(|p| p.join(".cache").join("pipe")))
        .unwrap_or_else(|| std::env::temp_dir().join("pipe-cache"))
}

/// The device family a plan assumes: the one asked for; for `auto` the best of this build, or a GPU where the type asked
/// for is one that no CPU computes in.
pub fn planned_kind(settings: &Settings) -> Kind {
    match backend::parse(&settings.train.device) {
        Some((Some(kind), _)) => kind,
        _ => {
            let best = [Kind::Cuda, Kind::Wgpu].into_iter().find(|k| k.in_build());
            let half = matches!(settings.train.precision, Precision::F16 | Precision::Bf16);
            best.unwrap_or(if half { Kind::Cuda } else { Kind::Cpu })
        }
    }
}

/// The type that matrix products and convolutions are planned in.
pub fn planned_type(settings: &Settings) -> DType {
    common::engine::compute_type(settings.train.precision, planned_kind(settings))
}
