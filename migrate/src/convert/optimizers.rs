//! The optimizers of the reference and the node types that stand for them.

/// An optimizer that `--optimizer_type` names.
pub(crate) struct Optimizer {
    /// Name, as the reference writes it.
    pub name: &'static str,
    /// Node type.
    pub node: &'static str,
    /// Arguments: its name, the field, both the same for most.
    pub args: &'static [(&'static str, &'static str)],
    /// Fields that are set because the defaults differ.
    pub fixed: &'static [(&'static str, Fixed)],
    /// What changes in meaning; empty for nothing.
    pub changed: &'static str,
    /// A node type with the same update, until the product has the first.
    pub stand_in: Option<&'static str>,
    /// Whether it estimates one rate for all groups.
    pub one_rate: bool,
    /// Whether it takes no schedule.
    pub no_schedule: bool,
}

/// A fixed value.
#[derive(Clone, Copy)]
pub(crate) enum Fixed {
    /// A number.
    Number(f64),
    /// A truth value.
    Bool(bool),
}

const fn of(name: &'static str, node: &'static str, args: &'static [(&'static str, &'static str)]) -> Optimizer {
    Optimizer { name, node, args, fixed: &[], changed: "", stand_in: None, one_rate: false, no_schedule: false }
}
impl Optimizer {
    const fn like(mut self, node: &'static str) -> Optimizer {
        self.stand_in = Some(node);
        self
    }
    const fn changed(mut self, note: &'static str) -> Optimizer {
        self.changed = note;
        self
    }
    const fn fixed(mut self, fields: &'static [(&'static str, Fixed)]) -> Optimizer {
        self.fixed = fields;
        self
    }
    const fn one_rate(mut self) -> Optimizer {
        self.one_rate = true;
        self
    }
    const fn no_schedule(mut self) -> Optimizer {
        self.no_schedule = true;
        self
    }
}

type Args = &'static [(&'static str, &'static str)];
const ADAM: Args = &[("betas", "betas"), ("eps", "eps"), ("weight_decay", "weight_decay")];
const LION: Args =
    &[("betas", "betas"), ("weight_decay", "weight_decay"), ("decoupled_weight_decay", "decoupled_weight_decay")];
const LION_8BIT: Args = &[("betas", "betas"), ("weight_decay", "weight_decay")];
const SGD: Args = &[("momentum", "momentum"), ("nesterov", "nesterov"), ("weight_decay", "weight_decay")];
const PRODIGY: Args = &[
    ("betas", "betas"),
    ("beta3", "beta3"),
    ("eps", "eps"),
    ("weight_decay", "weight_decay"),
    ("decouple", "decouple"),
    ("use_bias_correction", "use_bias_correction"),
    ("safeguard_warmup", "safeguard_warmup"),
    ("d0", "d0"),
    ("d_coef", "d_coef"),
    ("growth_rate", "growth_rate"),
    ("slice_p", "slice_p"),
];
const ADAFACTOR: Args = &[
    ("eps", "eps"),
    ("clip_threshold", "clip_threshold"),
    ("decay_rate", "decay_rate"),
    ("beta1", "beta1"),
    ("weight_decay", "weight_decay"),
    ("scale_parameter", "scale_parameter"),
    ("relative_step", "relative_step"),
    ("warmup_init", "warmup_init"),
];
const DADAPT: Args = &[
    ("betas", "betas"),
    ("eps", "eps"),
    ("weight_decay", "weight_decay"),
    ("decouple", "decouple"),
    ("use_bias_correction", "use_bias_correction"),
    ("d0", "d0"),
    ("growth_rate", "growth_rate"),
];
const DADAPT_ADAN: Args = &[
    ("betas", "betas"),
    ("eps", "eps"),
    ("weight_decay", "weight_decay"),
    ("no_prox", "no_prox"),
    ("d0", "d0"),
    ("growth_rate", "growth_rate"),
];
const DADAPT_SGD: Args = &[
    ("momentum", "momentum"),
    ("eps", "eps"),
    ("weight_decay", "weight_decay"),
    ("d0", "d0"),
    ("growth_rate", "growth_rate"),
];
const DADAPT_LION: Args = &[("betas", "betas"), ("weight_decay", "weight_decay"), ("d0", "d0")];
const FREE: Args = &[
    ("betas", "betas"),
    ("momentum", "momentum"),
    ("eps", "eps"),
    ("weight_decay", "weight_decay"),
    ("warmup_steps", "warmup_steps"),
    ("r", "r"),
    ("weight_lr_power", "weight_lr_power"),
];
const CAME: Args =
    &[("betas", "betas"), ("eps", "eps"), ("weight_decay", "weight_decay"), ("clip_threshold", "clip_threshold")];
const PLAIN_SGD: &[(&str, Fixed)] = &[("momentum", Fixed::Number(0.0)), ("nesterov", Fixed::Bool(false))];
const NO_NESTEROV: &[(&str, Fixed)] = &[("nesterov", Fixed::Bool(false))];
const SCALED: &[(&str, Fixed)] = &[("scale_parameter", Fixed::Bool(true))];

/// Arguments that choose how a step is computed, and change no result.
pub(crate) const HOW: &[&str] =
    &["foreach", "fused", "capturable", "differentiable", "use_triton", "fsdp_in_use", "log_every", "is_paged", "args"];

/// Every optimizer that the reference knows by name, and what users reach by a dotted path.
pub(crate) const OPTIMIZERS: &[Optimizer] = &[
    of("AdamW", "optimizer.adamw", ADAM),
    of("AdamW8bit", "optimizer.adamw_8bit", ADAM).like("optimizer.adamw"),
    of("PagedAdamW", "optimizer.adamw", ADAM),
    of("PagedAdamW8bit", "optimizer.adamw_8bit", ADAM).like("optimizer.adamw"),
    of("PagedAdamW32bit", "optimizer.adamw", ADAM),
    of("Lion", "optimizer.lion", LION),
    of("Lion8bit", "optimizer.lion_8bit", LION_8BIT).like("optimizer.lion"),
    of("PagedLion8bit", "optimizer.lion_8bit", LION_8BIT).like("optimizer.lion"),
    of("SGDNesterov", "optimizer.sgd", SGD),
    of("SGDNesterov8bit", "optimizer.sgd", SGD)
        .fixed(NO_NESTEROV)
        .changed("state in 32 bit; without Nesterov's step, which sd-scripts accepts here and ignores"),
    of("Adafactor", "optimizer.adafactor", ADAFACTOR).fixed(SCALED),
    of("Prodigy", "optimizer.prodigy", PRODIGY).one_rate(),
    of("DAdaptation", "optimizer.dadapt_adam_preprint", DADAPT).one_rate(),
    of("DAdaptAdamPreprint", "optimizer.dadapt_adam_preprint", DADAPT).one_rate(),
    of("DAdaptAdaGrad", "optimizer.dadapt_adagrad", DADAPT_SGD).one_rate(),
    of("DAdaptAdam", "optimizer.dadapt_adam", DADAPT).one_rate(),
    of("DAdaptAdan", "optimizer.dadapt_adan", DADAPT_ADAN).one_rate(),
    of("DAdaptAdanIP", "optimizer.dadapt_adan_ip", DADAPT_ADAN).one_rate(),
    of("DAdaptLion", "optimizer.dadapt_lion", DADAPT_LION).one_rate(),
    of("DAdaptSGD", "optimizer.dadapt_sgd", DADAPT_SGD).one_rate(),
    of("AdamWScheduleFree", "optimizer.schedule_free_adamw", FREE).no_schedule(),
    of("RAdamScheduleFree", "optimizer.schedule_free_radam", FREE).no_schedule(),
    of("SGDScheduleFree", "optimizer.schedule_free_sgd", FREE).no_schedule(),
    of("Adam", "optimizer.adam", ADAM),
    of("SGD", "optimizer.sgd", SGD).fixed(PLAIN_SGD),
    of("CAME", "optimizer.came", CAME),
];

/// The optimizer of a name: any case, also behind a dotted path.
pub(crate) fn find(name: &str) -> Option<&'static Optimizer> {
    let last = name.rsplit('.').next().unwrap_or(name);
    OPTIMIZERS.iter().find(|optimizer| optimizer.name.eq_ignore_ascii_case(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(find("adamw8bit").map(|o| o.node), Some("optimizer.adamw_8bit"));
        assert_eq!(find("came_pytorch.CAME").map(|o| o.node), Some("optimizer.came"));
        assert_eq!(find("prodigyplus.ProdigyPlusScheduleFree").map(|o| o.node), None);
    }
}
