//! Whether an autoencoder's latents are those that a model works on: equal channels do not tell, scale and shift do.

use pipe_core::node::Facts;
use pipe_data::weights::Family;

use super::family;

/// Where scale and shift of an autoencoder's latents come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFrom {
    /// The document, which is believed.
    Document,
    /// The autoencoder's `config.json`.
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

/// Message and help where the latents that `name` makes have another scale or shift than those of a family, and the
/// document does not tell them. `facts` have `PREFIXscale`, `PREFIXshift` and `PREFIXscale_from`.
pub fn misfit(of: Family, facts: &Facts, prefix: &str, name: &str) -> Option<(String, String)> {
    let number = |key: &str| facts.f64(&format!("{prefix}{key}"));
    let (scale, shift) = (number("scale")?, number("shift").unwrap_or(0.0));
    let from = ScaleFrom::of_id(facts.str(&format!("{prefix}scale_from"))?)?;
    let wanted = family::latent_scale(of);
    let differ = (scale - wanted.0).abs() > 1e-6 || (shift - wanted.1).abs() > 1e-6;
    if !differ || from == ScaleFrom::Document {
        return None;
    }
    let words = |(scale, shift): (f64, f64)| match shift {
        0.0 => format!("scaled by {scale}"),
        shift => format!("shifted by {shift} and scaled by {scale}"),
    };
    let theirs = words((scale, shift));
    let found = match from {
        ScaleFrom::Model(model) => format!("those of `{name}` are {theirs}, as those of {model}"),
        ScaleFrom::Config => format!("those of `{name}` are {theirs} by the autoencoder's `config.json`"),
        _ => format!("those of `{name}` are {theirs}, which was assumed"),
    };
    let set = match wanted {
        (scale, 0.0) => format!("`scaling_factor: {scale}`"),
        (scale, shift) => format!("`scaling_factor: {scale}` and `shift_factor: {shift}`"),
    };
    let help = match from {
        ScaleFrom::Assumed => format!("set {set} on the autoencoder"),
        _ => format!("use the autoencoder of {of}; where this one was made for it, set {set} on it"),
    };
    Some((format!("latents of {of} are {}, {found}", words(wanted)), help))
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
        // The shift alone tells them apart too.
        assert!(misfit(Family::Sd3, &facts(ScaleFrom::Config, (1.5305, 0.0)), "", "vae").is_some());
        assert_eq!(misfit(Family::Sd3, &Facts::new().with("scale", 0.5), "", "vae"), None);
    }
}
