//! Whether an autoencoder's latents are those that a model works on: equal channels do not tell, scale and shift do.

use pipe_core::node::Facts;
use pipe_data::weights::Family;

use super::family;

/// Where scale and shift of an autoencoder's latents come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFrom {
    /// The document, which is believed.
    Document,
    /// The autoencoder's `config.json`, which is believed where no public model has this scale.
    Config,
    /// The model that the autoencoder is a part of.
    Model(Family),
    /// Nothing tells them.
    Assumed,
}

impl ScaleFrom {
    /// Its name in facts.
    pub fn id(self) -> &'static str {
        match self {
            ScaleFrom::Document => "document",
            ScaleFrom::Config => "config",
            ScaleFrom::Assumed => "assumed",
            ScaleFrom::Model(of) => family::id(of),
        }
    }

    fn of_id(id: &str) -> Option<Self> {
        [ScaleFrom::Document, ScaleFrom::Config, ScaleFrom::Assumed]
            .into_iter()
            .chain(Family::ALL.map(ScaleFrom::Model))
            .find(|from| from.id() == id)
    }
}

/// Message and help where the latents that `name` makes have the scale and shift of another family, or assumed ones that
/// are not this family's. `facts` have `PREFIXscale`, `PREFIXshift` and `PREFIXscale_from`.
pub fn misfit(of: Family, facts: &Facts, prefix: &str, name: &str) -> Option<(String, String)> {
    let number = |key: &str| facts.f64(&format!("{prefix}{key}"));
    let (scale, shift) = (number("scale")?, number("shift").unwrap_or(0.0));
    let from = ScaleFrom::of_id(facts.str(&format!("{prefix}scale_from"))?)?;
    let wanted = family::latent_scale(of);
    let has = |(a, b): (f64, f64)| (scale - a).abs() < 1e-6 && (shift - b).abs() < 1e-6;
    if has(wanted) {
        return None;
    }
    let words = |(scale, shift): (f64, f64)| match shift {
        0.0 => format!("scaled by {scale}"),
        shift => format!("shifted by {shift} and scaled by {scale}"),
    };
    let theirs = words((scale, shift));
    let why = match from {
        ScaleFrom::Document => return None,
        ScaleFrom::Model(model) => format!("as those of {model}"),
        ScaleFrom::Config => {
            let model = Family::ALL.into_iter().find(|model| has(family::latent_scale(*model)))?;
            format!("as those of {model}, by the autoencoder's `config.json`")
        }
        ScaleFrom::Assumed => "which was assumed".into(),
    };
    let set = match wanted {
        (scale, 0.0) => format!("`scaling_factor: {scale}`"),
        (scale, shift) => format!("`scaling_factor: {scale}` and `shift_factor: {shift}`"),
    };
    let help = match from {
        ScaleFrom::Assumed => format!("set {set} on the autoencoder"),
        _ => format!("use the autoencoder of {of}; where this one was made for it, set {set} on it"),
    };
    Some((format!("latents of {of} are {}, those of `{name}` are {theirs}, {why}", words(wanted)), help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_document_tells_is_believed() {
        let facts = |from: ScaleFrom, (scale, shift): (f64, f64)| {
            Facts::new().with("scale", scale).with("shift", shift).with("scale_from", from.id())
        };
        for of in Family::ALL {
            for other in Family::ALL {
                let (own, foreign) = (family::latent_scale(of), family::latent_scale(other));
                for from in [ScaleFrom::Config, ScaleFrom::Model(other), ScaleFrom::Assumed] {
                    let found = misfit(of, &facts(from, foreign), "", "vae");
                    assert_eq!(found.is_some(), own != foreign, "{of} {other} {from:?}");
                }
                assert_eq!(misfit(of, &facts(ScaleFrom::Document, foreign), "", "vae"), None);
            }
        }
        // An autoencoder with a scale of its own.
        assert_eq!(misfit(Family::Sd3, &facts(ScaleFrom::Config, (0.334, 0.0)), "", "vae"), None);
        assert!(misfit(Family::Sd3, &facts(ScaleFrom::Assumed, (0.334, 0.0)), "", "vae").is_some());
        assert_eq!(misfit(Family::Sd3, &Facts::new().with("scale", 0.5), "", "vae"), None);
    }
}
