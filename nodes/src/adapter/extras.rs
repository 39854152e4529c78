//! LyCORIS' arguments that several kinds of adapter take beside rank and α.

use pipe_data::lora_names::norms;
use pipe_data::weights::Component;
use pipe_networks::adapters::{Kind, Rate, Target};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Parts;
use super::common::Common;
use super::targeting::{Fault, Targeting};
use crate::common::family;
use crate::common::trainable::AdapterAbout;

/// Fields of LoRA and of LyCORIS' kinds with a rank.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct Extras {
    /// The scale is α/√r in place of α/r (rsLoRA, Kalajdzievski 2023). Files get α·√r, from which every program finds the
    /// same scale. Default false.
    #[serde(default)]
    pub rs_lora: bool,
    /// What is added to a layer is multiplied by a number that learns and starts at 0, and no factor starts at 0 (LyCORIS'
    /// `use_scalar`). Files hold the product. Default false.
    #[serde(default)]
    pub scalar: bool,
    /// U-Nets: the norms beside the adapted types of layers learn too and are saved as differences (LyCORIS' `train_norm`),
    /// whatever other fields say of ranks and rates. Default false.
    #[serde(default)]
    pub norms: bool,
}

/// Rank and row dropout of LyCORIS' kinds, and what they share with LoRA.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct Ranked {
    /// Rank r; of LoKr that of the large factor, where it is a product. Default 16.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    pub rank: Option<u64>,
    /// Probability of leaving a row out of ΔW, as LyCORIS' rank dropout. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub rank_dropout: f64,
    /// What LoRA has too.
    #[serde(flatten)]
    pub extras: Extras,
}

impl Ranked {
    /// The rank.
    pub fn rank(&self) -> u64 {
        self.rank.unwrap_or(16)
    }
}

impl Extras {
    /// Gives the targets their scale and number, and adds the norms. Gives the fields that have no effect.
    pub fn apply(
        &self,
        parts: &Parts,
        (targeting, common): (&Targeting, &Common),
        targets: &mut Vec<Target>,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.rs_lora && common.weights.is_some() {
            let message =
                "`rs_lora` has no effect beside `weights`: the file's α is kept, which tells the scale".to_owned();
            faults.push(Fault::idle("rs_lora", message, Some("leave it out".into())));
        }
        for target in targets.iter_mut() {
            target.scalar = self.scalar;
            if self.rs_lora {
                let rank = target.rank as f64;
                target.alpha = (f64::from(target.alpha) * (rank / rank.sqrt())) as f32;
            }
        }
        if self.norms {
            faults.extend(idle_norms(parts));
            if !targets.is_empty() {
                targets.extend(norm_targets(parts, targeting.conv.is_some()));
            }
        }
        faults
    }

    /// Tells of them in metadata. Files with norms are LyCORIS'.
    pub fn describe(&self, about: &mut AdapterAbout) {
        for (name, set) in [("rs_lora", self.rs_lora), ("use_scalar", self.scalar), ("train_norm", self.norms)] {
            if set {
                about.args.insert(name.into(), "True".into());
            }
        }
    }

    /// Whether one is set.
    pub fn any(&self) -> bool {
        self.rs_lora || self.scalar || self.norms
    }
}

/// That norms cannot be trained here.
pub fn idle_norms(parts: &Parts) -> Option<Fault> {
    let message = || format!("`norms` has no effect: LyCORIS' files have no names for the norms of {}", parts.family);
    let unet = parts.family.denoiser() == Component::Unet;
    (!unet).then(|| Fault::idle("norms", message(), Some("leave it out".into())))
}

/// The norms of a U-Net; with `conv` those of residual blocks too.
pub fn norm_targets(parts: &Parts, conv: bool) -> Vec<Target> {
    let mut targets = Vec::new();
    for (component, shapes) in parts.components().into_iter().filter(|(component, _)| *component == Component::Unet) {
        let bias = |path: &str| shapes.iter().any(|(name, _)| name.strip_suffix(".bias") == Some(path));
        let named = shapes.iter().map(|(name, shape)| (name.as_str(), shape));
        targets.extend(norms(parts.family, named, conv).into_iter().map(|norm| Target {
            part: family::part(component).into(),
            kind: Kind::Norm { bias: bias(&norm.path) },
            path: norm.path,
            name: norm.name,
            weight: vec![norm.channels],
            rank: 1,
            alpha: 1.0,
            rate: Rate::default(),
            scalar: false,
        }));
    }
    targets
}
