//! `saver.adapter`: LoRA files that ComfyUI, A1111/Forge and diffusers load.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output, PortType, Rate};
use pipe_core::run::{Artifact, BuildCx, Built, EventCx, Listener, Moment, Position, Progress, RunError};
use pipe_core::settings::Settings;
use pipe_data::weights::{DType, SafetensorsWriter, TensorOut, hash};
use pipe_networks::adapters::Target;
use pipe_networks::adapters::file::{Entry, Values};
use schemars::JsonSchema;
use serde::Deserialize;

use super::best::{self, Best};
use super::cadence::Plan;
use super::files::Files;
use super::metadata::{self, Session, Wanted};
use super::range::Range;
use super::words::AdapterWords;
use super::{held_out, make_folder};
use crate::common::errors;
use crate::common::trainable::{Held, Method, Subject, Trainable};
use crate::common::write::{self, tensor_out};
use crate::optimizer::Update;

/// Fields of `saver.adapter`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    files: Files,
    /// What the file says of itself besides the training: a comment, title, author, licence and more; `false` for only
    /// what readers need. Default: the training, and the file's name as title.
    #[serde(default)]
    metadata: AdapterWords,
}

const EXTENSION: &str = ".safetensors";

/// The node type.
pub struct AdapterSaver;

impl Node for AdapterSaver {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "saver.adapter",
        summary: "Saves an adapter as safetensors with kohya's or LyCORIS' names, metadata and hashes.",
        details: "Keys are `lora_unet_…` and `lora_te_…` with `.lora_down.weight`, `.lora_up.weight` and a `.alpha` in f32; those of \
                  other adapters are LyCORIS' (LoHa, LoKr, DoRA) and kohya's (OFT; DyLoRA is a LoRA). Metadata are the `ss_*` keys other trainers write and modelspec. At the start of a run the file is written and read back \
                  once, so that a full disk or a wrong folder shows at once.\n\nThe final file is always written, and never deleted. \
                  Files of the two cadences of `every` are independent: each has names of its own and is counted apart by \
                  `keep_last`. Names are those of sd-scripts unless `file_names` gives others: `NAME-000003.safetensors` after an \
                  epoch, `NAME-step00000100.safetensors` after a step, `NAME.safetensors` at the end, in the run's `checkpoints`.",
        example: "save:\n  type: saver.adapter\n  adapter: lora\n  update: adamw\n  every:\n    epochs: 1\n  keep_last:\n    count: 5",
    };

    fn inputs() -> Vec<Input> {
        vec![
            Input::one("adapter", &[PortType::Trainable], Rate::Event, "Adapter to save."),
            Input::one("update", &[PortType::Update], Rate::Event, "The optimizer, for the metadata."),
            best::input(),
        ]
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        if let Some(source) = cx.inputs.one("adapter").cloned()
            && source.facts.str("method") == Some("full")
        {
            let help = "use `saver.checkpoint`";
            cx.error(
                "P0401",
                "adapter",
                format!("`{}` trains the whole model, there is no adapter to save", source.node),
                Some(help.into()),
            );
        }
        config.files.check(cx, EXTENSION);
        config.metadata.own().words.check(cx);
        best::check(cx, &config.files.name(cx.settings), EXTENSION);
        Facts::new()
    }

    fn plan(config: &Config, cx: &PlanCx) -> NodePlan {
        let parameters = cx.inputs.one("adapter").and_then(|a| a.facts.u64("file_values")).unwrap_or(0);
        // Three entries of the header for each module, and the metadata.
        let modules = cx.inputs.one("adapter").and_then(|a| a.facts.u64("modules")).unwrap_or(0);
        let size = parameters * config.files.dtype.dtype().size() as u64 + 450 * modules + 6_000;
        let (total, per_epoch) = cx.length.unwrap_or((0, 1));
        let largest = cx.inputs.one("adapter").map_or(0, |adapter| write::largest(&adapter.facts));
        let plan = config.files.plan(cx.settings, EXTENSION).between(total, per_epoch).disk(size);
        let disk = plan.disk + best::bytes(cx.inputs, size);
        NodePlan { event: write::event(cx.settings, largest), disk, ..plan }
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        let saver = Saver {
            trainable: cx.one::<Trainable>("adapter")?.clone(),
            update: Held::<Update>::one(cx, "update")?,
            settings: cx.settings.clone(),
            dtype: config.files.dtype.dtype(),
            plan: config.files.plan(cx.settings, EXTENSION),
            entries: metadata::entries(&config.metadata.own().words, cx)?,
            words: config.metadata,
            held_out: held_out::of_run(cx.folder),
            session: None,
            best: Best::of(cx)?,
            range: Range::new(cx.progress.clone()),
            progress: cx.progress.clone(),
        };
        Ok(Built { listener: Some(Box::new(saver)), ..Default::default() })
    }
}

struct Saver {
    trainable: Trainable,
    update: Held<Update>,
    settings: Settings,
    dtype: DType,
    plan: Plan,
    words: AdapterWords,
    /// Entries of modelspec that the user gave.
    entries: BTreeMap<String, String>,
    /// What the files say of the run's validation.
    held_out: BTreeMap<String, String>,
    session: Option<Session>,
    best: Best,
    range: Range,
    progress: Arc<dyn Progress>,
}

impl Saver {
    fn metadata(&mut self, position: Position, rehearsal: bool) -> BTreeMap<String, String> {
        let Subject::Denoiser { model, .. } = &*self.trainable.subject else { return BTreeMap::new() };
        let session = self.session.get_or_insert_with(|| {
            let words = self.words.own();
            let (name, least) = (self.plan.name.as_str(), self.words.least());
            let wanted = Wanted { name, least, words: &words, entries: &self.entries, held_out: &self.held_out };
            Session::begin(&wanted, &self.settings, &self.trainable, &self.update, model, position)
        });
        session.at(position, rehearsal)
    }

    /// Writes the adapter as it is now.
    fn write(&mut self, path: &Path, position: Position, rehearsal: bool) -> Result<(), RunError> {
        make_folder(path)?;
        let mut metadata = self.metadata(position, rehearsal);
        let Method::Adapter(adapted) = &*self.trainable.method else {
            return Err(RunError::new("P0401", "there is no adapter to save").at("adapter"));
        };
        let targets = &adapted.targets;
        let train = self.trainable.read();
        let wrong = |e: String| RunError::new("P0903", format!("cannot write `{}`: {e}", path.display()));
        let mut entries: Vec<Entry> = Vec::new();
        for target in targets {
            entries.extend(target.entries(|key| train.factor(key)).map_err(wrong)?);
        }
        let made = || {
            let alpha = |t: &Target| TensorOut::f32(t.alpha_name(), DType::F32, [], vec![t.file_alpha()]);
            let factors = entries.iter().map(|e| match &e.values {
                Values::Tensor(tensor) => tensor_out(e.name.clone(), self.dtype, e.shape.clone(), tensor),
                Values::Made(values) => TensorOut::f32(e.name.clone(), self.dtype, e.shape.clone(), values.clone()),
            });
            factors.chain(targets.iter().filter(|t| t.has_alpha()).map(alpha)).collect::<Vec<TensorOut>>()
        };
        let io = |e: std::io::Error| wrong(e.to_string());
        let wide = Range::beyond(&made()).map_err(io)?;
        if !rehearsal {
            self.range.tell(&wide);
        }
        let tensors = || {
            let mut list = made();
            Range::widen(&mut list, &wide);
            list
        };
        let legacy = SafetensorsWriter::new(tensors(), &hash::legacy_metadata(&metadata)).map_err(wrong)?;
        metadata.insert("sshs_model_hash".into(), hash::sshs_model_hash(&legacy).map_err(io)?);
        metadata.insert("sshs_legacy_hash".into(), hash::sshs_legacy_hash(&legacy).map_err(io)?);
        let writer = SafetensorsWriter::new(tensors(), &metadata).map_err(wrong)?;
        writer.save(path).map_err(|e| errors::write_error(&e))
    }

    /// Writes and reads back a file under a passing name.
    fn rehearse(&mut self, folder: &Path, position: Position) -> Result<(), RunError> {
        let path = self.plan.rehearsal(folder);
        self.write(&path, position, true)?;
        let back = pipe_data::weights::WeightFile::open(&path).map_err(|e| errors::file_error(&e, ""));
        drop(std::fs::remove_file(&path));
        back.map(|_| ())
    }
}

impl Listener for Saver {
    fn priority(&self) -> u32 {
        0
    }

    fn looks(&self, moment: Moment, position: Position) -> bool {
        moment == Moment::Start || !self.plan.due(moment, position, Path::new("")).is_empty()
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if cx.moment == Moment::Start {
            return self.rehearse(cx.folder, cx.position);
        }
        if cx.goes_back {
            self.plan.go_back(cx, &*self.progress);
        }
        if cx.moment == Moment::Resume {
            // The session begins now, not at its first file.
            self.metadata(cx.position, true);
            self.plan.goes_on(cx);
        }
        for due in self.plan.due(cx.moment, cx.position, cx.folder) {
            if !due.is_there(cx.moment) {
                self.write(&due.path, cx.position, false)?;
            }
            self.plan.prune(&due);
            cx.artifacts.push(Artifact { kind: "lora", path: due.path, final_result: due.is_final });
        }
        Ok(())
    }

    fn after(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        let (name, extension) = (self.plan.name.clone(), self.plan.extension);
        if let Some(path) = self.best.due(cx, &name, extension) {
            self.write(&path, cx.position, false)?;
            cx.artifacts.push(Artifact { kind: "lora", path, final_result: false });
        }
        if let Some(path) = self.best.kept(cx, &name, extension) {
            cx.artifacts.push(Artifact { kind: "lora", path, final_result: true });
        }
        Ok(())
    }
}
