//! The reference's training scripts: what each trains.

/// A family of models, as the scripts divide them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x (`--v2`).
    Sd2,
    /// Stable Diffusion XL.
    Sdxl,
    /// Stable Diffusion 3 and 3.5.
    Sd3,
    /// FLUX.1.
    Flux,
    /// Lumina-Image-2.0.
    Lumina2,
    /// Lumina-Next, which the reference's script is said to train, and does not.
    LuminaNext,
}

impl Family {
    /// Whether it predicts a velocity.
    pub fn flow(self) -> bool {
        matches!(self, Family::Sd3 | Family::Flux | Family::Lumina2 | Family::LuminaNext)
    }
    /// Node type of its model.
    pub fn model(self) -> &'static str {
        match self {
            Family::Sd1 => "model.sd1",
            Family::Sd2 => "model.sd2",
            Family::Sdxl => "model.sdxl",
            Family::Sd3 => "model.sd3",
            Family::Flux => "model.flux",
            Family::Lumina2 => "model.lumina2",
            Family::LuminaNext => "model.lumina_next",
        }
    }
    /// Name in file names.
    pub fn id(self) -> &'static str {
        self.model().trim_start_matches("model.")
    }
}

/// A training script of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its name without `.py`.
    pub name: &'static str,
    /// Its place in [`SCRIPTS`].
    bit: u8,
    /// What it trains, before `--v2` is looked at.
    pub family: Family,
    /// Whether it trains an adapter, not the whole model.
    pub adapter: bool,
}

/// A set of scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scripts(pub u16);

/// Every script that is known.
pub const SCRIPTS: [Script; 11] = [
    Script { name: "train_network", bit: 0, family: Family::Sd1, adapter: true },
    Script { name: "sdxl_train_network", bit: 1, family: Family::Sdxl, adapter: true },
    Script { name: "sd3_train_network", bit: 2, family: Family::Sd3, adapter: true },
    Script { name: "flux_train_network", bit: 3, family: Family::Flux, adapter: true },
    Script { name: "lumina_train_network", bit: 4, family: Family::Lumina2, adapter: true },
    Script { name: "train_db", bit: 5, family: Family::Sd1, adapter: false },
    Script { name: "fine_tune", bit: 6, family: Family::Sd1, adapter: false },
    Script { name: "sdxl_train", bit: 7, family: Family::Sdxl, adapter: false },
    Script { name: "sd3_train", bit: 8, family: Family::Sd3, adapter: false },
    Script { name: "flux_train", bit: 9, family: Family::Flux, adapter: false },
    Script { name: "lumina_train", bit: 10, family: Family::Lumina2, adapter: false },
];

/// Every script.
pub const ALL: Scripts = Scripts(0x7ff);
/// Those that train adapters.
pub const NET: Scripts = Scripts(0x01f);
/// Those that train whole models.
pub const FULL: Scripts = Scripts(0x7e0);
/// SD 1.x, 2.x and SDXL.
pub const UNET: Scripts = Scripts(0b000_1110_0011);
/// SD3, FLUX and Lumina.
pub const FLOW: Scripts = Scripts(0b111_0001_1100);
/// SD3.
pub const SD3: Scripts = Scripts(0b001_0000_0100);
/// FLUX.
pub const FLUX: Scripts = Scripts(0b010_0000_1000);
/// Lumina.
pub const LUMINA: Scripts = Scripts(0b100_0001_0000);
/// SDXL.
pub const SDXL: Scripts = Scripts(0b000_1000_0010);
/// SD 1.x and 2.x.
pub const SD: Scripts = Scripts(0b000_0110_0001);
/// `train_db`.
pub const TRAIN_DB: Scripts = Scripts(1 << 5);
/// `fine_tune`.
pub const FINE_TUNE: Scripts = Scripts(1 << 6);

impl Scripts {
    /// Whether a script is one of them.
    pub const fn has(self, script: Script) -> bool {
        self.0 & (1 << script.bit) != 0
    }
    /// Those in both.
    pub const fn and(self, other: Scripts) -> Scripts {
        Scripts(self.0 & other.0)
    }
    /// Those in either.
    pub const fn or(self, other: Scripts) -> Scripts {
        Scripts(self.0 | other.0)
    }
    /// Those that are not in the other.
    pub const fn but(self, other: Scripts) -> Scripts {
        Scripts(self.0 & !other.0)
    }
    /// The scripts.
    pub fn list(self) -> impl Iterator<Item = Script> {
        SCRIPTS.into_iter().filter(move |script| self.has(*script))
    }
    /// In words.
    pub fn describe(self) -> String {
        match self {
            ALL => "all".into(),
            NET => "`*_train_network`".into(),
            FULL => "full training".into(),
            _ => {
                let families = [("SD", SD), ("SDXL", SDXL), ("SD3", SD3), ("FLUX", FLUX), ("Lumina", LUMINA)];
                let whole = families.into_iter().filter(|(_, set)| self.and(*set) == *set);
                let rest = whole.clone().fold(self, |rest, (_, set)| rest.but(set));
                let names = whole.map(|(name, _)| name.to_owned());
                names.chain(rest.list().map(|s| format!("`{}`", s.name))).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Script {
    /// The script of this name, with or without folder and `.py`.
    pub fn find(word: &str) -> Option<Script> {
        let name = stem(word);
        SCRIPTS.into_iter().find(|script| script.name == name)
    }
    /// Its file name.
    pub fn file(self) -> String {
        format!("{}.py", self.name)
    }
}

/// Name of a file without folder and `.py`.
pub fn stem(word: &str) -> &str {
    let file = word.rsplit(['/', '\\']).next().unwrap_or(word);
    file.strip_suffix(".py").unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_fit_the_list() {
        for (i, script) in SCRIPTS.into_iter().enumerate() {
            assert_eq!(script.bit as usize, i);
            assert_eq!(NET.has(script), script.adapter, "{}", script.name);
            assert_eq!(FULL.has(script), !script.adapter, "{}", script.name);
            assert_eq!(FLOW.has(script), script.family.flow(), "{}", script.name);
            assert_eq!(UNET.has(script), !script.family.flow(), "{}", script.name);
            let sets = [(SD3, Family::Sd3), (FLUX, Family::Flux), (LUMINA, Family::Lumina2), (SDXL, Family::Sdxl)];
            for (set, family) in sets.into_iter().chain([(SD, Family::Sd1)]) {
                assert_eq!(set.has(script), script.family == family, "{}", script.name);
            }
        }
        assert_eq!(UNET.describe(), "SD, SDXL");
        assert_eq!(FLUX.or(TRAIN_DB).describe(), "FLUX, `train_db`");
        assert_eq!(SD3.and(NET).describe(), "`sd3_train_network`");
        assert_eq!(Script::find("./x/sdxl_train.py").map(|s| s.name), Some("sdxl_train"));
        assert_eq!(Script::find(r"C:\sd\fine_tune.py").map(|s| s.name), Some("fine_tune"));
        assert_eq!(Script::find("train_controlnet.py"), None);
    }
}
