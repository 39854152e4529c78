//! Whether the rates of the parameter groups go with the optimizer, and whether each has an effect.

use pipe_core::node::CheckCx;
use pipe_train::Invalid;
use pipe_train::optim::OptimizerConfig;

use super::groups::Group;
use super::node::complain;
use super::rates::{Rates, TEXT};

/// Checks the rates. `groups` is nothing where the facts do not tell what learns; `changed` says that `learning_rate` is
/// not the optimizer's default.
pub(super) fn check(
    cx: &mut CheckCx,
    optimizer: &OptimizerConfig,
    rates: &Rates,
    groups: Option<&[Group]>,
    changed: bool,
) {
    let trained = |part: &str| groups.is_none_or(|groups| groups.iter().any(|g| g.part == part));
    for (field, part, rate) in rates.fields() {
        let mut parts = TEXT.iter().map(|(_, of)| *of).filter(|of| rates.given(of).is_some_and(|(f, _)| f == field));
        if !parts.any(trained) {
            let what = if part == "text_encoder" { "no text encoder" } else { "no such text encoder" };
            let message = format!("{what} is trained, so this rate has no effect");
            let learn = TEXT.iter().find(|(other, of)| *other != field && part != "text_encoder" && trained(of));
            let help = match learn.filter(|(_, of)| *of != "text_encoder") {
                Some((other, _)) => format!("the rate of the text encoder that learns is `{other}`"),
                None => "give the adapter the text encoder (`text: …`), or leave the rate out".into(),
            };
            cx.error("P0402", field, message, Some(help));
        } else if rate == 0.0 {
            let message = "a text encoder that learns at a rate of 0 is computed and saved for nothing";
            let help = "leave the encoder out of the adapter's `text`";
            cx.error("P0403", field, message, Some(help.into()));
        }
    }
    let Some(groups) = groups.filter(|groups| !groups.is_empty()) else { return };
    let follows = |group: &Group| group.tensors.iter().any(|(key, _)| rates.follows_base(&group.part, key));
    // Adafactor sets the rate by itself where it is not given one.
    let needed = matches!(optimizer, OptimizerConfig::Adafactor(_));
    if rates.base.is_some() && changed && !needed && !groups.iter().any(follows) {
        let message = "`learning_rate` has no effect: every part that learns has a rate of its own";
        cx.error("P0402", "learning_rate", message, Some("leave it out".into()));
    }
    // An optimizer that sets its own rate cannot multiply it for some tensors.
    let multiplied = |own: &&crate::optimizer::KeyRate| own.absolute.is_none() && own.factor != 1.0;
    if rates.base.is_none()
        && let Some(own) = rates.all_own().find(multiplied)
    {
        let message = format!(
            "`{}` learns {} times as fast; {} sets the rate of all groups by itself, so this has no effect",
            own.group,
            own.factor,
            optimizer.name()
        );
        let help = "give the optimizer a `learning_rate`, or leave this out";
        cx.error("P0402", &own.field, message, Some(help.into()));
        return;
    }
    let given: Vec<(&str, f64)> = groups.iter().filter_map(|g| Some((g.name.as_str(), g.rate?))).collect();
    if let Err(mut invalid) = optimizer.check_rates(&given) {
        if let Some(place) = place(rates, groups) {
            invalid.field = place;
        }
        complain(cx, Invalid { reason: format!("{}, so other rates have no effect", invalid.reason), ..invalid });
    }
}

/// The field that makes a difference between the groups: of an adapter, or of a text encoder.
fn place(rates: &Rates, groups: &[Group]) -> Option<String> {
    let learning = || groups.iter().filter(|g| g.rate.is_some_and(|rate| rate != 0.0));
    // Where the optimizer sets its own rate any is odd; else one that is not the first's.
    let first = learning().next().filter(|_| rates.base.is_some()).and_then(|g| g.rate);
    let field = |group: &Group| {
        let key = &group.tensors.first()?.0;
        let own = rates.own(key).map(|own| own.field.clone());
        own.or_else(|| rates.given(&group.part).map(|(field, _)| field.to_owned()))
    };
    let odd = learning().filter(|g| g.rate != first).find_map(field);
    odd.or_else(|| learning().find_map(field))
}

/// Reports what learns at a rate of 0: an error where it is some of what learns, a warning where it is all. In full
/// fine-tuning a rate of 0 is how the denoiser stays as it is.
pub(super) fn at_zero(cx: &mut CheckCx, rates: &Rates, groups: &[Group], full: bool) {
    if !groups.is_empty() && groups.iter().all(|g| g.rate == Some(0.0)) {
        let message = "nothing learns: the rate of every group is 0";
        cx.warn("P0403", "learning_rate", message, Some("raise it, unless this is a test".into()));
        return;
    }
    let of_base = |g: &&Group| {
        let mut keys = g.tensors.iter().map(|(key, _)| key);
        g.rate == Some(0.0) && keys.any(|key| rates.follows_base(&g.part, key))
    };
    if let Some(group) = groups.iter().filter(|_| !full).find(of_base) {
        let message =
            format!("`{}` learns at a rate of 0: its adapters are computed and saved for nothing", group.name);
        let help = "leave its layers out of the adapter (`exclude`), or raise the rate";
        cx.error("P0403", "learning_rate", message, Some(help.into()));
    }
}
