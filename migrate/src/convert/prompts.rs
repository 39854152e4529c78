//! Prompt files: `.txt` with options behind ` --`, `.toml`, `.json`.

use serde_json::{Map, Value as Json, json};

use crate::config;
use crate::python;

/// Options of a prompt and where they go; the last have no place here.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("n", "nodes.preview.prompts.negative_prompt"),
    ("w", "nodes.preview.width"),
    ("h", "nodes.preview.height"),
    ("d", "nodes.preview.prompts.seed"),
    ("s", "nodes.preview.steps"),
    ("l", "nodes.preview.guidance_scale"),
    ("g", "nodes.preview.embedded_guidance"),
    ("ss", "nodes.preview.sampler"),
    ("cn", ""),
    ("ctr", "nodes.preview.prompts.guidance_truncation"),
    ("rcfg", "nodes.preview.prompts.guidance_renorm"),
    ("fs", "nodes.preview.prompts.flow_shift"),
];

/// A prompt with its settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Prompt {
    pub text: String,
    pub negative: Option<String>,
    pub width: Option<i64>,
    pub height: Option<i64>,
    pub seed: Option<i64>,
    pub steps: Option<i64>,
    pub scale: Option<f64>,
    pub guidance: Option<f64>,
    pub sampler: Option<String>,
    /// What has no place here.
    pub other: Vec<(String, String)>,
}

/// Prompts of a file. The error says what is wrong with it.
pub(super) fn read(path: &str, text: &str) -> Result<Vec<Prompt>, String> {
    let (path, text) = (path.to_lowercase(), text.trim_start_matches('\u{feff}'));
    if path.ends_with(".toml") {
        let tree = config::read(&path, text).map_err(|error| error.to_string())?;
        let root = tree.map_or(json!({}), |tree| config::json_of(&tree));
        let shared = root["prompt"].as_object().cloned().unwrap_or_default();
        let subsets = shared.get("subset").and_then(Json::as_array).cloned().unwrap_or_default();
        let table = |subset: &Json| {
            let mut map = shared.clone();
            map.remove("subset");
            map.extend(subset.as_object().cloned().unwrap_or_default());
            object(&map)
        };
        return Ok(subsets.iter().map(table).collect());
    }
    if path.ends_with(".json") {
        let root: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let items = root.as_array().cloned().unwrap_or_else(|| vec![root]);
        let one = |item: &Json| match item {
            Json::String(text) => line(text),
            Json::Object(map) => object(map),
            other => Prompt { text: other.to_string(), ..Prompt::default() },
        };
        return Ok(items.iter().map(one).collect());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(line).collect())
}

/// `a fox --n blurry --w 1024 --d 1`.
fn line(text: &str) -> Prompt {
    let mut parts = text.split(" --");
    let mut prompt = Prompt { text: parts.next().unwrap_or_default().trim().to_owned(), ..Prompt::default() };
    for part in parts {
        let (name, value) = part.trim().split_once(char::is_whitespace).unwrap_or((part.trim(), ""));
        prompt.set(&name.to_lowercase(), value.trim());
    }
    prompt
}

fn object(map: &Map<String, Json>) -> Prompt {
    let mut prompt = Prompt::default();
    for (key, value) in map {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let name = match key.as_str() {
            "prompt" => {
                prompt.text = text;
                continue;
            }
            "negative_prompt" => "n",
            "width" => "w",
            "height" => "h",
            "seed" => "d",
            "sample_steps" => "s",
            "scale" => "l",
            "guidance_scale" => "g",
            "sample_sampler" => "ss",
            "controlnet_image" => "cn",
            "cfg_trunc_ratio" => "ctr",
            "renorm_cfg" => "rcfg",
            other => other,
        };
        prompt.set(name, &text);
    }
    prompt
}

impl Prompt {
    fn set(&mut self, name: &str, value: &str) {
        let (int, float) = (python::int(value), python::float(value));
        match name {
            "n" => self.negative = Some(value.to_owned()),
            "w" if int.is_some() => self.width = int,
            "h" if int.is_some() => self.height = int,
            "d" if int.is_some() => self.seed = int,
            "s" if int.is_some() => self.steps = int,
            "l" if float.is_some() => self.scale = float,
            "g" if float.is_some() => self.guidance = float,
            "ss" => self.sampler = Some(value.to_owned()),
            _ => self.other.push((name.to_owned(), value.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let fox = Prompt {
            text: "a fox, red".into(),
            negative: Some("blurry".into()),
            width: Some(768),
            seed: Some(1),
            scale: Some(7.5),
            sampler: Some("euler_a".into()),
            ..Prompt::default()
        };
        let text = "# comment\n\na fox, red --n blurry --W 768 --d 1 --l 7.5 --ss euler_a\nplain --cn a.png\n";
        let list = read("p.txt", text).unwrap();
        assert_eq!(list[0], fox);
        assert_eq!((list[1].text.as_str(), list[1].other.len()), ("plain", 1));
        let toml = "[prompt]\nwidth = 768\nscale = 7.5\nnegative_prompt = 'blurry'\n[[prompt.subset]]\nprompt = 'a fox, red'\nseed = 1\nsample_sampler = 'euler_a'\n";
        assert_eq!(read("p.toml", toml).unwrap(), [fox]);
        let json = r#"["plain --s 5", {"prompt": "b", "sample_steps": 5, "scale": 2}]"#;
        let list = read("p.json", json).unwrap();
        assert_eq!((list[0].steps, list[1].steps, list[1].scale), (Some(5), Some(5), Some(2.0)));
        assert!(read("p.json", "{").is_err() && read("p.toml", "a = = 1").is_err());
    }
}
