//! Checks of the fields that every optimizer has, but for the [rates](super::check_rates).

use pipe_core::node::{CheckCx, Facts};
use pipe_core::settings::Precision;
use pipe_ops::backend::Kind;
use pipe_train::optim::OptimizerConfig;
use pipe_train::schedule::Length;

use super::groups::Group;
use super::node::complain;
use super::rates::is_text;

/// Whether the text encoders learn first and then no more.
pub fn stop(cx: &mut CheckCx, length: &Length, total: u64, groups: Option<&[Group]>) {
    let field = "stop_text_encoder_training";
    if let Err(invalid) = length.check() {
        let help = "give a step, or leave the encoders out of the adapter's `text`";
        return complain(cx, invalid.help(help).within(field));
    }
    if let Some(invalid) = length.none_of(total) {
        let help = "leave the encoders out of the adapter's `text`";
        let message = format!("`{field}` {}", invalid.reason.replace("has no effect: ", "is no step: "));
        return cx.error("P0403", field, message, Some(help.into()));
    }
    if length.of(total) >= total {
        let message = format!("`{field}` has no effect: the run ends after {total} steps");
        return cx.error("P0402", field, message, Some("leave it out".into()));
    }
    let Some(groups) = groups.filter(|groups| !groups.is_empty()) else { return };
    if !groups.iter().any(|group| is_text(&group.part)) {
        let message = format!("`{field}` has no effect: no text encoder is trained");
        let help = "give the adapter the text encoder (`text: …`), or leave it out";
        cx.error("P0402", field, message, Some(help.into()));
    } else if groups.iter().all(|group| is_text(&group.part) || group.rate == Some(0.0)) {
        let message = format!("after step {} nothing would learn: only text encoders do", length.of(total));
        cx.error("P0403", field, message, Some("end the run there: `train.steps`".into()));
    }
}

/// Whether tensors can be updated one by one on the way back.
pub fn fused(cx: &mut CheckCx, optimizer: &OptimizerConfig, full: bool) {
    let field = "fused_backward";
    if !full {
        let message = "`fused_backward` saves nothing on an adapter, whose gradients are as small as it is";
        let help = "leave it out; it is for `adapter.full`";
        return cx.error("P0402", field, message, Some(help.into()));
    }
    if let Some(why) = optimizer.waits() {
        let message = format!("`fused_backward` does not go with {}, which {why}", optimizer.name());
        let help = "take another optimizer, such as `optimizer.adafactor`, or leave it out";
        cx.error("P0403", field, message, Some(help.into()));
    }
    if cx.settings.train.precision == Precision::F16 {
        let message =
            "`fused_backward` updates before all gradients are known, and in f16 the scale of the loss needs them all";
        let help = "set `train.precision: bf16`, or leave it out";
        cx.error("P0403", field, message, Some(help.into()));
    }
    let passes = cx.settings.train.accumulate;
    if passes > 1 {
        let message = format!(
            "`fused_backward` updates in each backward pass, and here {passes} passes make a step, whose gradients must be \
             kept until they are added up"
        );
        let help = "leave `train.accumulate` out, or `fused_backward`";
        cx.error("P0403", field, message, Some(help.into()));
    }
}

/// Whether anything waits for the device, so that reading it seldom is worth something. `on_device` is whether the
/// optimizer's update can stay there.
pub fn read_every(cx: &mut CheckCx, loss: &Facts, on_device: bool) {
    if cx.settings.train.read_every == 1 {
        return;
    }
    let f16 = cx.settings.train.precision == Precision::F16 && loss.str("loss") != Some("autoencoder");
    let why = match crate::planned_kind(cx.settings) {
        Kind::Cpu => "on the CPU there is nothing to wait for",
        _ if f16 => "in f16 the scale of the loss needs the gradients' norm in every step",
        _ if !on_device => "this optimizer's update runs on the CPU and reads the gradients in every step",
        _ => return,
    };
    let message = format!("`read_every` has no effect: {why}");
    cx.error("P0402", "/train.read_every", message, Some("leave it out".into()));
}

/// An optimizer whose estimate of the rate is of all that learns, where some of it is to learn no more.
pub fn estimates(cx: &mut CheckCx, optimizer: &OptimizerConfig) {
    if optimizer.one_rate().is_some() {
        let message = format!(
            "{} estimates one rate from all that learns; once the text encoders stay as they are, what they added to the estimate \
             remains, and the rate comes out larger",
            optimizer.name()
        );
        let help =
            "use an optimizer with a given rate, such as `optimizer.adamw`, or let the encoders learn to the end";
        cx.warn("P0403", "stop_text_encoder_training", message, Some(help.into()));
    }
}
