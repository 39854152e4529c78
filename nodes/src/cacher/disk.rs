//! `cacher.disk`: latents and text embeddings in files, shared between runs.

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx, Source};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, RunError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::fill::fill;
use super::store::Store;
use crate::common::facts::read;

/// Fields of `cacher.disk`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Folder of the cache. Default: the user's cache folder, shared by all runs.
    #[serde(default)]
    folder: Option<String>,
    /// Images encoded at once. Default 4.
    #[serde(default = "super::memory::default_batch")]
    #[schemars(range(min = 1, max = 256))]
    vae_batch_size: u64,
}

/// The node type.
pub struct DiskCacher;

impl Node for DiskCacher {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "cacher.disk",
        summary: "Encodes images and captions once and keeps the results on disk, shared between runs.",
        details: "Entries are named by a hash of the image's bytes (or the caption), the resize, the encoder's weights and sizes, the \
                  type it computes in and the format, so they are valid exactly as long as their inputs, whatever files are called. \
                  A value is tested against its own hash when it is read: a damaged one is removed, ends the run, and is made anew \
                  when that goes on. A stopped run continues \
                  where it was; two runs may use one cache at once.",
        example: "cached:\n  type: cacher.disk\n  samples: photos\n  vae: vae\n  text: clip",
    };

    fn inputs() -> Vec<Input> {
        super::inputs()
    }

    fn outputs() -> Vec<Output> {
        super::outputs()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        let facts = super::check(cx, config.vae_batch_size);
        let one = |port: &str| cx.inputs.one(port).is_some();
        let vary = |source: &Source| {
            read::<Vec<String>>(&source.facts, "varying_images").is_some_and(|fields| !fields.is_empty())
        };
        let live = one("live_vae") || cx.inputs.many("samples").iter().all(vary);
        if live && !one("vae") && !one("text") && !cx.inputs.many("samples").is_empty() {
            let field = if config.folder.is_some() { "folder" } else { "type" };
            let message = "nothing is cached: images and captions are encoded at each use";
            cx.error("P0402", field, message, Some("write `type: cacher.memory`, without `folder`".into()));
        }
        facts
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        super::plan(cx, config.vae_batch_size, false)
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let folder = match &config.folder {
            Some(folder) => cx.path(folder),
            None => crate::cache_dir(),
        };
        let cached = fill(cx, Store::Disk(folder), config.vae_batch_size as usize)?;
        super::built(cx, cached)
    }
}
