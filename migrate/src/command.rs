//! Which script a command line runs, and what its launcher was told.
//!
//! `accelerate launch --mixed_precision bf16 sdxl_train.py --learning_rate 1e-5`, `python -m …`, variables in front.

use crate::Error;
use crate::options::{self, Place};
use crate::report::{Entry, Kind};
use crate::script::{Family, SCRIPTS, Script, Scripts, stem};

/// A command line taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// Name of the script, if one is in it.
    pub script: Option<String>,
    /// Words behind the script.
    pub args: Vec<String>,
    /// `--mixed_precision` of the launcher.
    pub launcher_precision: Option<String>,
    /// What became of the launcher's other options.
    pub entries: Vec<Entry>,
}

/// Options of the launcher that take no value.
const FLAGS: [&str; 8] = ["--cpu", "--multi_gpu", "--tpu", "--use_deepspeed", "--use_fsdp", "--quiet", "--debug", "-m"];

/// Takes words apart. Without a script among them they are all arguments.
pub fn take_apart(words: &[String]) -> Command {
    let is_script = |word: &String| !word.starts_with('-') && (word.ends_with(".py") || Script::find(word).is_some());
    let Some(at) = words.iter().position(is_script) else {
        return Command { args: words.to_vec(), ..Command::default() };
    };
    // Behind an option of the script itself a file name is a value.
    let mut command = Command { script: Some(words[at].clone()), args: words[at + 1..].to_vec(), ..Command::default() };
    let mut rest = words[..at].iter();
    while let Some(word) = rest.next() {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) if name.starts_with('-') => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        if !name.starts_with('-') {
            if let Some((variable, value)) = word.split_once('=') {
                let note =
                    "the device is chosen by `train.device`; set the variable for `pipe` too if it is meant to hold";
                command.entries.push(Entry::new(variable, value, Kind::Ignored, None, note));
            }
            continue;
        }
        let value = match attached {
            Some(value) => value,
            None if FLAGS.contains(&name) => String::new(),
            None => rest.next().cloned().unwrap_or_default(),
        };
        match name {
            "--mixed_precision" => command.launcher_precision = Some(value),
            "--num_processes" | "--num_machines" if value != "1" => {
                let note = "not available yet: training on several devices";
                command.entries.push(Entry::wrong(&format!("launcher {name}"), &value, note));
            }
            "--multi_gpu" | "--use_deepspeed" | "--use_fsdp" => {
                let note = "not available yet: training on several devices";
                command.entries.push(Entry::wrong(&format!("launcher {name}"), &value, note));
            }
            _ => {
                let note = "there is no launcher here";
                command.entries.push(Entry::new(&format!("launcher {name}"), &value, Kind::Ignored, None, note));
            }
        }
    }
    command
}

/// The script of a name. Errors name the reason for those that train something else.
pub fn known(name: &str) -> Result<Script, Error> {
    if let Some(script) = Script::find(name) {
        return Ok(script);
    }
    let what = stem(name);
    let why = match what {
        n if n.contains("textual_inversion") => "textual inversion is not available",
        n if n.contains("control") => "ControlNet is not available",
        n if n.contains("hunyuan") || n.contains("anima") => "this family of models is not available",
        n if n.contains("gen_img") || n.contains("inference") => "it draws pictures and trains nothing",
        _ => "it is no training script of sd-scripts",
    };
    Err(Error::Script { name: what.to_owned(), why })
}

/// The script that a set-up without its name is for: the one that declares every option in use.
pub fn infer(used: &[&str], module: Option<&str>, model: Option<&str>) -> Result<Script, Error> {
    let adapter = module.is_some() || used.iter().any(|name| name.starts_with("network_"));
    let mut fits = if adapter { crate::script::NET } else { crate::script::FULL };
    for name in used {
        let declared = options::all().filter(|opt| opt.place == Place::Command && opt.name == *name);
        let scripts = declared.fold(Scripts(0), |sum, opt| sum.or(opt.scripts));
        if scripts != Scripts(0) {
            fits = fits.and(scripts);
        }
    }
    let family = match module.unwrap_or_default() {
        m if m.contains("flux") => Some(Family::Flux),
        m if m.contains("sd3") => Some(Family::Sd3),
        m if m.contains("lumina") => Some(Family::Lumina2),
        _ => None,
    };
    let list: Vec<Script> = fits.list().filter(|s| family.is_none_or(|f| s.family == f)).collect();
    if let [only] = list[..] {
        return Ok(only);
    }
    // What is left is told by the name of the model's file, as people do.
    let name = stem(model.unwrap_or_default()).to_lowercase();
    let guess = [
        ("xl", Family::Sdxl),
        ("flux", Family::Flux),
        ("sd3", Family::Sd3),
        ("lumina", Family::Lumina2),
        ("v1-5", Family::Sd1),
        ("sd15", Family::Sd1),
        ("v2-1", Family::Sd1),
    ];
    let guess = guess.into_iter().find(|(part, _)| name.contains(part)).map(|(_, family)| family);
    let named: Vec<Script> = list.iter().copied().filter(|s| Some(s.family) == guess).collect();
    match named[..] {
        [only] => Ok(only),
        _ => {
            let open = if list.is_empty() { SCRIPTS.to_vec() } else { list };
            Err(Error::WhichScript { fit: open.iter().map(|s| s.file()).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apart(line: &str) -> Command {
        take_apart(&crate::shell::split(line).unwrap())
    }

    #[test]
    fn launchers() {
        let c = apart(
            "CUDA_VISIBLE_DEVICES=1 accelerate launch --num_processes=2 --mixed_precision bf16 ./x/sdxl_train.py --seed 1",
        );
        assert_eq!(c.script.as_deref(), Some("./x/sdxl_train.py"));
        assert_eq!(c.args, ["--seed", "1"]);
        assert_eq!(c.launcher_precision.as_deref(), Some("bf16"));
        let kinds: Vec<(&str, Kind)> = c.entries.iter().map(|e| (e.option.as_str(), e.kind)).collect();
        assert_eq!(kinds, [("CUDA_VISIBLE_DEVICES", Kind::Ignored), ("launcher --num_processes", Kind::Refused)]);
        assert_eq!(apart("python train_db.py").script.as_deref(), Some("train_db.py"));
        assert_eq!(apart("accelerate launch --num_processes 1 fine_tune.py").entries[0].kind, Kind::Ignored);
        assert_eq!(apart("--seed 1"), Command { args: vec!["--seed".into(), "1".into()], ..Command::default() });
    }

    #[test]
    fn scripts_by_name_and_by_options() {
        assert!(known("sdxl_train_textual_inversion.py").is_err());
        assert!(known("flux_train_network").is_ok());
        let name = |used: &[&str], module, model| infer(used, module, model).map(|s| s.name).ok();
        assert_eq!(name(&["guidance_scale"], Some("networks.lora_flux"), None), Some("flux_train_network"));
        assert_eq!(name(&["block_lr"], None, None), Some("sdxl_train"));
        assert_eq!(name(&["stop_text_encoder_training"], None, None), Some("train_db"));
        let xl = Some("models/sd_xl_base_1.0.safetensors");
        assert_eq!(name(&["network_dim"], Some("networks.lora"), xl), Some("sdxl_train_network"));
        assert_eq!(name(&["network_dim"], Some("networks.lora"), Some("a.safetensors")), None);
    }
}
