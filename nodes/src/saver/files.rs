//! Fields that every saver has: when, under which names, how many, of which element type.

use pipe_core::node::CheckCx;
use pipe_core::settings::{Every, Settings};
use pipe_data::weights::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cadence::Plan;
use super::names::Template;

/// Fields of every saver.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Files {
    /// Base name of the files. Default: the run's name.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub name: Option<String>,
    /// When to save besides the end: by epochs, by steps, or by both, each with files of its own. Default: only at the end.
    #[serde(default)]
    pub every: Option<Every>,
    /// How many files from the middle of the run are kept. Default: all.
    #[serde(default)]
    pub keep_last: Option<KeepLast>,
    /// Templates of the file names. Default: those of sd-scripts.
    #[serde(default)]
    pub file_names: Option<FileNames>,
    /// Element type of the file. Default `f16`.
    #[serde(default)]
    pub dtype: SaveType,
}

/// Element type of a saved file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats: the usual choice, read everywhere.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
}

impl SaveType {
    /// The file's element type.
    pub fn dtype(self) -> DType {
        match self {
            SaveType::F32 => DType::F32,
            SaveType::F16 => DType::F16,
            SaveType::Bf16 => DType::BF16,
        }
    }
}

/// How many files from the middle of the run are kept; older ones are deleted. The final file is never counted.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
#[schemars(extend("x-exclusive" = [["count", "epoch_files"], ["count", "step_files"]]))]
pub struct KeepLast {
    /// Number of files of each cadence: of those saved by epochs and of those saved by steps.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100000))]
    pub count: Option<u64>,
    /// Number of files saved by epochs. Default: all, when only `step_files` is given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100000))]
    pub epoch_files: Option<u64>,
    /// Number of files saved by steps: a number of files, not of steps. Default: all, when only `epoch_files` is given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100000))]
    pub step_files: Option<u64>,
}

/// File names without extension. `{name}`, `{epoch}` and `{step}` are replaced; `{epoch:06}` has at least six digits.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct FileNames {
    /// Of files saved by epochs. Default `{name}-{epoch:06}`.
    #[serde(default)]
    pub epoch: Option<String>,
    /// Of files saved by steps. Default `{name}-step{step:08}`.
    #[serde(default)]
    pub step: Option<String>,
    /// Of the file at the end of the run. Default `{name}`.
    #[serde(default, rename = "final")]
    pub last: Option<String>,
}

impl Files {
    /// The base name.
    pub fn name(&self, settings: &Settings) -> String {
        self.name.clone().unwrap_or_else(|| settings.name.clone())
    }

    /// The plan of a saver; for faulty templates, which the check reports, the default ones stand in.
    pub fn plan(&self, settings: &Settings, extension: &'static str) -> Plan {
        let name = self.name(settings);
        let of = |given: Option<&String>, usual: &str| {
            let own = given.and_then(|text| Template::parse(text, &name).ok());
            own.or_else(|| Template::parse(usual, &name).ok()).unwrap_or_default()
        };
        let names = self.file_names.clone().unwrap_or_default();
        Plan {
            epoch: of(names.epoch.as_ref(), EPOCH),
            step: of(names.step.as_ref(), STEP),
            last: of(names.last.as_ref(), LAST),
            name,
            every: self.every.clone().unwrap_or_default(),
            keep_last: self.keep_last,
            extension,
        }
    }

    /// Reports what is wrong with the fields, and the files that will be written.
    pub fn check(&self, cx: &mut CheckCx, extension: &'static str) {
        let every = self.every.clone().unwrap_or_default();
        let cadences = [("epoch", every.epochs.is_some()), ("step", every.steps.is_some())];
        let idle = |cx: &mut CheckCx, field: String, short: &str, needs: &str| {
            let help = format!("add `every: {{ {needs}: 1 }}`, or leave it out");
            cx.error(
                "P0402",
                &field,
                format!("`{short}` has no effect without `every{needs}`", needs = dotted(needs)),
                Some(help),
            );
        };
        if let Some(keep) = &self.keep_last {
            if cadences.iter().all(|(_, set)| !set) {
                cx.error(
                    "P0402",
                    "keep_last",
                    "`keep_last` has no effect without `every`",
                    Some("add `every: { epochs: 1 }`".into()),
                );
            } else {
                for (cadence, given) in [("epoch", keep.epoch_files), ("step", keep.step_files)] {
                    if given.is_some() && cadences.contains(&(cadence, false)) {
                        let field = format!("{cadence}_files");
                        idle(cx, format!("keep_last.{field}"), &field, &format!("{cadence}s"));
                    }
                }
            }
        }
        let plan = self.plan(cx.settings, extension);
        let names = self.file_names.clone().unwrap_or_default();
        let mut sound = true;
        // A base name that makes no file name, whatever the template.
        if let Err(message) = Template::parse(LAST, &plan.name) {
            let message = message.replace(LAST, &plan.name);
            cx.error("P0403", "name", message, Some("give the files another `name`".into()));
            sound = false;
        }
        for (field, text, wanted) in [
            ("epoch", &names.epoch, Some("epochs")),
            ("step", &names.step, Some("steps")),
            ("final", &names.last, None),
        ] {
            let Some(text) = text else { continue };
            let place = format!("file_names.{field}");
            if let Err(message) = Template::parse(text, &plan.name) {
                cx.error("P0403", &place, message, None);
                sound = false;
            } else if let Some(needs) = wanted
                && cadences.contains(&(field, false))
            {
                idle(cx, place, &format!("file_names.{field}"), needs);
                sound = false;
            }
        }
        if sound {
            plan.check(cx);
        }
    }
}

fn dotted(cadence: &str) -> String {
    format!(".{cadence}")
}

const EPOCH: &str = "{name}-{epoch:06}";
const STEP: &str = "{name}-step{step:08}";
const LAST: &str = "{name}";
