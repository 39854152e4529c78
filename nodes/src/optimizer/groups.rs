//! Parameter groups: which tensors learn at which rate.

use std::collections::BTreeMap;

use pipe_core::plan::ParameterGroup;
use pipe_ops::DType;
use pipe_train::optim::{OptimizerConfig, Report};

use super::rates::Rates;
use crate::common::trainable::group_of;

/// Tensors that share a learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name: that of the part of the model, or what an adapter calls it.
    pub name: String,
    /// The part of the model.
    pub part: String,
    /// Rate before the schedule; nothing where the optimizer sets its own.
    pub rate: Option<f64>,
    /// Keys and shapes, in the order of keys.
    pub tensors: Vec<(String, Vec<usize>)>,
}

/// A tensor's key and shape.
pub type Shape = (String, Vec<usize>);

/// Puts tensors into groups; those of `main`, the denoiser or the autoencoder, come first.
pub fn of(main: &str, tensors: impl IntoIterator<Item = Shape>, rates: &Rates) -> Vec<Group> {
    let mut groups: BTreeMap<(bool, String), Group> = BTreeMap::new();
    for (key, shape) in tensors {
        let part = group_of(&key).unwrap_or(main);
        let (name, rate) = rates.group(part, &key);
        let group = groups.entry((part != main, name.clone()));
        let group = group.or_insert_with(|| Group { name, part: part.to_string(), rate, tensors: Vec::new() });
        group.tensors.push((key, shape));
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| group.tensors.sort());
    groups
}

fn values(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64
}

impl Group {
    /// As a plan shows it, of weights that are kept in a type.
    pub fn planned(&self, config: &OptimizerConfig, kept: DType) -> ParameterGroup {
        let values = self.tensors.iter().map(|(_, shape)| values(shape)).sum();
        ParameterGroup {
            name: self.name.clone(),
            rate: self.rate,
            tensors: self.tensors.len() as u64,
            values,
            bytes: kept.size() as u64 * values,
            state_bytes: self.tensors.iter().map(|(_, shape)| config.state_bytes(shape)).sum(),
        }
    }
}

/// What a step tells of its update: each group's rate after the schedule, once, and where the optimizer finds the size
/// of its steps itself, its estimate `d` and what it made of the rate.
pub fn report(groups: &[Group], rates: &[f64], report: &Report) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for ((group, rate), used) in groups.iter().zip(rates).zip(&report.rates) {
        // An estimate is told by itself.
        values.push((format!("lr_{}", group.name), if report.distance.is_some() { *rate } else { *used }));
    }
    if let Some(distance) = report.distance {
        values.push(("d".into(), distance));
        values.extend(groups.iter().zip(&report.rates).map(|(group, used)| (format!("d*lr_{}", group.name), *used)));
    }
    values
}

#[cfg(test)]
mod tests {
    use pipe_core::node::Facts;
    use serde_json::json;

    use super::super::frame::Frame;
    use super::super::rates::KeyRate;
    use super::*;

    fn lora(part: &str) -> [Shape; 2] {
        [(format!("{part}_a.lora_up.weight"), vec![8, 2]), (format!("{part}_a.lora_down.weight"), vec![2, 4])]
    }

    #[test]
    fn parts_and_own_rates_make_groups() {
        let frame = Frame { text_encoder_learning_rate: Some(5e-5), ..Frame::default() };
        let plus = KeyRate { group: "unet_plus".into(), factor: 16.0, absolute: None, field: String::new() };
        let facts = Facts::new().with("rates", json!({ "lora_unet_a.lora_up.weight": plus }));
        let rates = Rates::new(Some(1e-4), &frame, &facts);
        let tensors: Vec<Shape> = ["lora_te2", "lora_unet", "lora_te1"].into_iter().flat_map(lora).collect();
        let groups = of("unet", tensors, &rates);
        let list: Vec<(&str, f64, usize)> =
            groups.iter().map(|g| (g.name.as_str(), g.rate.unwrap(), g.tensors.len())).collect();
        let expected =
            [("unet", 1e-4, 1), ("unet_plus", 1.6e-3, 1), ("text_encoder", 5e-5, 2), ("text_encoder_2", 5e-5, 2)];
        assert_eq!(list, expected);
        assert_eq!(groups[2].tensors[0].0, "lora_te1_a.lora_down.weight");
        let planned = groups[2].planned(&OptimizerConfig::AdamW(Default::default()), DType::F32);
        assert_eq!((planned.values, planned.bytes, planned.state_bytes), (24, 96, 192));
    }

    #[test]
    fn a_rate_of_its_own_goes_before_that_of_all_text_encoders() {
        let frame = Frame {
            text_encoder_learning_rate: Some(1e-5),
            text_encoder_3_learning_rate: Some(2e-5),
            ..Frame::default()
        };
        let rates = Rates::new(Some(1e-4), &frame, &Facts::new());
        assert_eq!(rates.of("unet"), Some(1e-4));
        assert_eq!(rates.given("text_encoder_2"), Some(("text_encoder_learning_rate", 1e-5)));
        assert_eq!(rates.given("text_encoder_3"), Some(("text_encoder_3_learning_rate", 2e-5)));
        assert_eq!(Rates::default().of("text_encoder"), None);
    }
}
