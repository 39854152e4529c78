//! `logger.wandb`: Weights & Biases, through the user's own `wandb` package.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipe_core::folder::atomic_write;
use pipe_core::node::{About, CheckCx, Facts, Node, PlanCx};
use pipe_core::plan::NodePlan;
use pipe_core::port::{Input, Output};
use pipe_core::run::{BuildCx, Built, EventCx, Listener, Moment, Position, Progress, RunError};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::feed::{self, Feed, Sent};
use super::{config, pictures, rows};

/// Fields of `logger.wandb`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Project that the run belongs to. Default `pipe`.
    #[serde(default = "project")]
    #[schemars(length(min = 1, max = 128))]
    project: String,
    /// Name of the run. Default: the pipeline's.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    name: Option<String>,
    /// User or team. Default: the one of the key.
    #[serde(default)]
    entity: Option<String>,
    /// Words to find the run by.
    #[serde(default)]
    tags: Vec<String>,
    /// Where the numbers go. Default `online`.
    #[serde(default)]
    mode: Mode,
    /// Variable of the environment that holds the key. Default: what `wandb` finds itself, `WANDB_API_KEY` or a login.
    #[serde(default)]
    #[schemars(regex(pattern = r"^\$\{env:[A-Za-z_][A-Za-z0-9_]*\}$"))]
    #[schemars(extend("x-form" = "the name of a variable, as in `${env:WANDB_API_KEY}`; a key does not belong in a document"))]
    api_key: Option<String>,
    /// Python that has the package `wandb`. Default `python3`.
    #[serde(default = "python")]
    python: String,
    /// Write every so many steps. Default 1.
    #[serde(default = "super::one")]
    #[schemars(range(min = 1))]
    every_steps: u64,
    /// Show previews. Default true.
    #[serde(default = "super::yes")]
    images: bool,
    /// Tell the pipeline with all defaults, of paths the last part alone. Default true.
    #[serde(default = "super::yes")]
    config: bool,
}

/// Where the numbers go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// To the server, while the run goes on.
    #[default]
    Online,
    /// Into the run's folder; `wandb sync` sends them.
    Offline,
    /// Nowhere: nothing is started, and the package need not be there.
    Disabled,
}

fn project() -> String {
    "pipe".into()
}
fn python() -> String {
    "python3".into()
}

/// The node type.
pub struct Wandb;

impl Node for Wandb {
    type Config = Config;

    const ABOUT: About = About {
        type_name: "logger.wandb",
        summary: "Sends losses, learning rates, norms, previews and the configuration to Weights & Biases.",
        details: "Uses the `wandb` package of the user's Python through its public functions (`init`, `log`, `finish`), in a process \
                  of its own. Names are those of `logger.tensorboard`, over the step. The key comes from the environment and is \
                  written nowhere. A continued run goes on in the same run of Weights & Biases, whose number is kept in \
                  `wandb.json`; steps that the server has already are not taken twice. If the connection is lost or takes too \
                  little, training goes on and steps are left out there.",
        example: "wandb:\n  type: logger.wandb\n  update: adamw\n  project: portraits\n  mode: offline",
    };

    fn inputs() -> Vec<Input> {
        super::inputs()
    }

    fn outputs() -> Vec<Output> {
        Vec::new()
    }

    fn check(config: &Config, cx: &mut CheckCx) -> Facts {
        cx.will_write("", "wandb".into());
        if let Some(key) = &config.api_key {
            if config.mode != Mode::Online {
                let message = "`api_key` has no effect: only `mode: online` uses a key";
                cx.error("P0402", "api_key", message, Some("leave it out".into()));
            } else if !cx.without_files && variable(key).is_none() {
                let message = format!("the environment has no variable `{}`", variable_name(key));
                let help = format!("set it before the run: `export {}=…`, or use `mode: offline`", variable_name(key));
                cx.error("P0315", "api_key", message, Some(help));
            }
        }
        if config.mode != Mode::Disabled && !cx.without_files {
            has_package(config, cx);
        }
        Facts::new()
    }

    fn plan(_config: &Config, _cx: &PlanCx) -> NodePlan {
        NodePlan::default()
    }

    fn build(config: Config, cx: &mut BuildCx) -> Result<Built, RunError> {
        if config.mode == Mode::Disabled {
            return Ok(Built::default());
        }
        let name = config.name.clone().unwrap_or_else(|| cx.settings.name.clone());
        let run = Run { config, name, progress: cx.progress.clone(), feed: None };
        Ok(Built { listener: Some(Box::new(run)), ..Default::default() })
    }
}

/// Whether the Python is there and has the package.
fn has_package(config: &Config, cx: &mut CheckCx) {
    const LOOK: &str = "import sys, importlib.util as u; sys.path = [p for p in sys.path if p]; s = u.find_spec('wandb'); \
                        sys.exit(0 if s and s.origin else 3)";
    let quiet = || Stdio::null();
    let found = Command::new(&config.python).args(["-c", LOOK]).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    let python = &config.python;
    let help = "or set `mode: disabled`, or remove the node";
    match found {
        Ok(status) if status.success() => {}
        Ok(_) => {
            let help = format!("install it: `{python} -m pip install wandb`; {help}");
            cx.error("P0315", "python", format!("`{python}` has no package `wandb`"), Some(help));
        }
        Err(error) => {
            let message = match error.kind() {
                std::io::ErrorKind::NotFound => format!("there is no program `{python}`"),
                _ => format!("`{python}` cannot be started: {error}"),
            };
            let help = format!("name the Python that has the package `wandb`: `python: /path/to/python`; {help}");
            cx.error("P0315", "python", message, Some(help));
        }
    }
}

/// `NAME` of `${env:NAME}`.
fn variable_name(text: &str) -> &str {
    text.trim_start_matches("${env:").trim_end_matches('}')
}

fn variable(text: &str) -> Option<String> {
    std::env::var(variable_name(text)).ok().filter(|value| !value.is_empty())
}

/// Seconds that the upload may take after the last step.
const PATIENCE: Duration = Duration::from_secs(120);
const SCRIPT: &str = include_str!("wandb.py");
/// Keeps the number of the run.
const FILE: &str = "wandb.json";

struct Run {
    config: Config,
    name: String,
    progress: Arc<dyn Progress>,
    feed: Option<Feed>,
}

/// The number of this run: the one it began with, or a new one.
fn number(folder: &Path, fresh: bool) -> Result<String, RunError> {
    let path = folder.join(FILE);
    let old = std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Json>(&text).ok());
    if let Some(id) = old.as_ref().and_then(|old| old["id"].as_str()).filter(|_| !fresh) {
        return Ok(id.to_string());
    }
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let hash = blake3::hash(format!("{} {}", clock.as_nanos(), std::process::id()).as_bytes());
    let id = hash.to_hex()[..10].to_string();
    atomic_write(&path, |file| writeln!(file, "{}", json!({ "id": id })))?;
    Ok(id)
}

impl Run {
    /// Starts the process and waits until the run is open.
    fn open(&mut self, cx: &EventCx) -> Result<(), RunError> {
        let c = &self.config;
        let failed = |why: String| {
            let help = "log in with `wandb login`, set `WANDB_API_KEY`, or use `mode: offline`";
            RunError::new("P0911", format!("Weights & Biases did not open the run: {why}")).help(help)
        };
        let log = cx.folder.join("wandb.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| RunError::io("write", &log, &e))?;
        let mut command = Command::new(&c.python);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        if let Some(key) = c.api_key.as_deref().and_then(variable) {
            command.env("WANDB_API_KEY", key);
        }
        let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let (Some(mut to), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("the process has no pipes".into()));
        };
        let mut start = json!({
            "project": c.project,
            "name": self.name,
            "id": number(cx.folder, cx.moment == Moment::Start)?,
            "mode": if c.mode == Mode::Offline { "offline" } else { "online" },
            "dir": cx.folder,
        });
        let more = [
            ("entity", c.entity.as_ref().map(|entity| json!(entity))),
            ("tags", (!c.tags.is_empty()).then(|| json!(c.tags))),
            ("resume", (c.mode == Mode::Online).then(|| json!("allow"))),
            ("config", c.config.then(|| config::resolved(cx.folder))),
        ];
        more.into_iter().for_each(|(name, value)| {
            if let Some(value) = value {
                start[name] = value
            }
        });
        let mut answer = String::new();
        let asked = feed::write_line(&mut to, &start).and_then(|()| BufReader::new(answers).read_line(&mut answer));
        let answer: Json = serde_json::from_str(&answer).unwrap_or_default();
        if let Some(error) = answer["error"].as_str() {
            return Err(failed(error.trim().to_string()));
        }
        if asked.is_err() || !answer.is_object() {
            return Err(failed(format!("the process ended; `{}` says why", cx.folder.join("wandb.log").display())));
        }
        match (answer["url"].as_str(), answer["folder"].as_str()) {
            (Some(url), _) => self.progress.say(&format!("Weights & Biases: {url}")),
            (None, Some(folder)) => {
                self.progress.say(&format!("Weights & Biases: `wandb sync {folder}` sends the run"))
            }
            _ => {}
        }
        self.feed = Some(Feed::new(child, to).map_err(|e| failed(e.to_string()))?);
        Ok(())
    }

    /// Sends a line. A connection that is lost is told once; training goes on.
    fn send(&mut self, line: &Json) {
        let Some(feed) = &mut self.feed else { return };
        match feed.send(line.clone()) {
            Sent::Yes => {}
            Sent::LeftOut { first } => {
                if first {
                    let what = "Weights & Biases takes no more for now: steps are left out there, training goes on";
                    self.progress.warn(what);
                }
            }
            Sent::Gone => {
                self.progress
                    .warn("Weights & Biases is no longer told: its process has ended; `wandb.log` may say why");
                self.feed = None;
            }
        }
    }

    /// Ends the run and waits until all is written or sent.
    fn close(&mut self, finished: bool) {
        let Some(mut feed) = self.feed.take() else { return };
        let (begun, last) = (Instant::now(), json!({ "finish": if finished { 0 } else { 1 } }));
        let mut told = false;
        while begun.elapsed() < PATIENCE {
            // Behind all that waits; a process that is gone is found below.
            told = told || !matches!(feed.send(last.clone()), Sent::LeftOut { .. });
            match feed.child.try_wait() {
                Ok(Some(status)) if status.success() => return,
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                _ => return self.progress.warn("Weights & Biases did not end well; `wandb.log` may say why"),
            }
        }
        self.progress.warn("Weights & Biases is slow: its process goes on by itself with what it has taken");
    }
}

/// What is sent of a moment: rows, and the pictures with the row of their step.
fn messages(cx: &EventCx, every: u64, images: bool) -> Vec<Json> {
    let mut list: Vec<Json> = Vec::new();
    for row in rows::due(cx, every) {
        let mut values = Map::from_iter([("epoch".into(), json!(row.epoch)), ("global_step".into(), json!(row.step))]);
        values.extend(row.scalars.iter().map(|scalar| (scalar.tag.clone(), json!(scalar.value))));
        list.push(json!({ "step": row.step, "values": values }));
    }
    let pictures = if images { pictures::of(cx) } else { Vec::new() };
    if !pictures.is_empty() {
        let images: Map<String, Json> = pictures.into_iter().map(|p| (p.tag, json!(p.path))).collect();
        match list.iter_mut().find(|line| line["step"] == cx.position.step) {
            Some(line) => line["images"] = Json::Object(images),
            None => list.push(json!({ "step": cx.position.step, "values": {}, "images": images })),
        }
    }
    list
}

impl Listener for Run {
    fn priority(&self) -> u32 {
        20
    }

    fn looks(&self, _: Moment, _: Position) -> bool {
        false
    }

    fn on(&mut self, cx: &mut EventCx) -> Result<(), RunError> {
        if matches!(cx.moment, Moment::Start | Moment::Resume) {
            self.open(cx)?;
        }
        for line in messages(cx, self.config.every_steps, self.config.images) {
            self.send(&line);
        }
        if cx.moment == Moment::End {
            self.close(cx.position.is_last());
        }
        Ok(())
    }
}
