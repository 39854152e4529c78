//! The optimizer; its types and arguments are in [`crate::convert`].

use super::Fate::*;
use super::*;
use crate::script::*;

const GROUPED: Scripts = FULL.and(SDXL.or(FLOW));
const BLOCKWISE: Scripts = FULL.and(FLOW);

pub(super) const OPTIONS: &[Opt] = &[
    text("optimizer_type", ALL, Part("nodes.optimizer.type")),
    Opt::new("optimizer_args", Type::Texts, "", ALL, Part("nodes.optimizer")),
    flag("use_8bit_adam", ALL, Part("nodes.optimizer.type")),
    flag("use_lion_optimizer", ALL, Part("nodes.optimizer.type")),
    flag("fused_backward_pass", ALL, Part("nodes.optimizer.fused_backward")).only(GROUPED),
    int("fused_optimizer_groups", "", GROUPED, Part("nodes.optimizer.fused_backward")).only(SDXL),
    flag("blockwise_fused_optimizers", BLOCKWISE, Part("nodes.optimizer.fused_backward")),
];
