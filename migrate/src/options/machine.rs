//! Several devices.

use super::Fate::*;
use super::*;

const ONE: &str = "not available yet: training on several devices";
const STAGE: &str = "belongs to DeepSpeed, which is not used";

pub(super) const OPTIONS: &[Opt] = &[
    int("ddp_timeout", "", ALL, Ignored("belongs to training on several devices")),
    flag("ddp_gradient_as_bucket_view", ALL, Ignored("belongs to training on several devices")),
    flag("ddp_static_graph", ALL, Ignored("belongs to training on several devices")),
    flag("deepspeed", ALL, Refused(ONE)),
    Opt::new("zero_stage", Type::Choice(&["0", "1", "2", "3"]), "2", ALL, Ignored(STAGE)),
    Opt::new("offload_optimizer_device", Type::Choice(&["cpu", "nvme"]), "", ALL, Ignored(STAGE)),
    text("offload_optimizer_nvme_path", ALL, Ignored(STAGE)),
    Opt::new("offload_param_device", Type::Choice(&["cpu", "nvme"]), "", ALL, Ignored(STAGE)),
    text("offload_param_nvme_path", ALL, Ignored(STAGE)),
    flag("zero3_init_flag", ALL, Ignored(STAGE)),
    flag("zero3_save_16bit_model", ALL, Ignored(STAGE)),
    flag("fp16_master_weights_and_gradients", ALL, Ignored(STAGE)),
];
