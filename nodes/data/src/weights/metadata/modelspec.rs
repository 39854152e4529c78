//! The `modelspec.*` keys of adapters and checkpoints.

use std::collections::BTreeMap;

/// What a file says of the model in it, after the ModelSpec standard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSpec {
    /// `stable-diffusion-v1`, …; `/lora` is added for adapters.
    pub architecture: String,
    /// Whether it is an adapter.
    pub lora: bool,
    /// Whose code the weights are for: a repository's address, or `diffusers`.
    pub implementation: String,
    /// The model's name.
    pub title: String,
    /// Width and height it was trained for.
    pub resolution: Option<(usize, usize)>,
    /// Time of writing; see [`iso_date`].
    pub date: Option<String>,
    /// `epsilon` or `v`; nothing for flow matching.
    pub prediction_type: Option<String>,
    /// Timesteps trained, first and last.
    pub timestep_range: Option<(u32, u32)>,
    /// Layer of the text encoder used, from the end.
    pub encoder_layer: Option<u32>,
    /// Program and version that wrote the file.
    pub implementation_version: Option<String>,
    /// The user's own: `author`, `description`, `license`, `tags`, `usage_hint`, `thumbnail`, `merged_from`,
    /// `trigger_phrase`, `preprocessor`, `is_negative_embedding`.
    pub more: BTreeMap<String, String>,
}

impl ModelSpec {
    /// The keys and texts to store.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let lora = if self.lora { "/lora" } else { "" };
        let fields = [
            ("sai_model_spec", Some("1.0.1".to_owned())),
            ("architecture", Some(format!("{}{lora}", self.architecture))),
            ("implementation", Some(self.implementation.clone())),
            ("title", Some(self.title.clone())),
            ("resolution", self.resolution.map(|(w, h)| format!("{w}x{h}"))),
            ("date", self.date.clone()),
            ("prediction_type", self.prediction_type.clone()),
            ("timestep_range", self.timestep_range.map(|(a, b)| format!("{a},{b}"))),
            ("encoder_layer", self.encoder_layer.map(|n| n.to_string())),
            ("implementation_version", self.implementation_version.clone()),
        ];
        let more = self.more.iter().map(|(key, text)| (key.as_str(), Some(text.clone())));
        let all = more.chain(fields).filter_map(|(key, text)| Some((format!("modelspec.{key}"), text?)));
        all.collect()
    }
}

/// A time in seconds since 1970 as `2026-02-28T23:59:59`, in UTC.
pub fn iso_date(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days to a date in the calendar of 400-year cycles that start in March (H. Hinnant, chrono-compatible dates).
    let shifted = days + 719_468;
    let (cycle, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_cycle = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(iso_date(0), "1970-01-01T00:00:00");
        assert_eq!(iso_date(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(iso_date(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(iso_date(1_700_000_000), "2023-11-14T22:13:20");
        assert_eq!(iso_date(4_107_542_400), "2100-03-01T00:00:00");
    }

    #[test]
    fn keys() {
        let spec = ModelSpec {
            architecture: "stable-diffusion-v1".into(),
            lora: true,
            implementation: "diffusers".into(),
            title: "cats".into(),
            resolution: Some((512, 512)),
            more: BTreeMap::from([("author".to_owned(), "me".to_owned())]),
            ..Default::default()
        };
        let map = spec.to_map();
        assert_eq!(map.len(), 6);
        assert_eq!(map["modelspec.architecture"], "stable-diffusion-v1/lora");
        assert_eq!((map["modelspec.resolution"].as_str(), map["modelspec.author"].as_str()), ("512x512", "me"));
    }
}
