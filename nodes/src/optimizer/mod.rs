//! Optimizers: what drives a run.
//!
//! The formulas are [`pipe_train::optim`]'s. A node type is a file with its [`node::Algorithm`]; fields, checks and
//! plan that all have in common are in [`node`] and [`rates`], the loop in [`stepper`].

mod adafactor;
mod adam;
mod adamw;
mod adamw_8bit;
mod came;
mod check_rates;
mod checks;
mod dadapt_adagrad;
mod dadapt_adam;
mod dadapt_adam_preprint;
mod dadapt_adan;
mod dadapt_adan_ip;
mod dadapt_lion;
mod dadapt_sgd;
mod damage;
mod device;
mod estimate;
mod frame;
mod fused;
mod groups;
mod host;
mod lion;
mod lion_8bit;
mod node;
mod numbers;
mod prodigy;
mod rates;
mod scaler;
mod schedule_free_adamw;
mod schedule_free_radam;
mod schedule_free_sgd;
mod sgd;
mod state;
mod stepper;

use pipe_core::node::{NodeType, Typed};
use pipe_train::optim;

pub use node::{Algorithm, OptimizerNode, Update};
pub(crate) use numbers::PRESERVATION;
pub use rates::KeyRate;

/// Every optimizer.
pub fn all() -> Vec<Box<dyn NodeType>> {
    fn of<A: Algorithm>() -> Box<dyn NodeType> {
        Typed::<OptimizerNode<A>>::boxed()
    }
    vec![
        of::<optim::AdamW>(),
        of::<optim::Adam>(),
        of::<optim::Sgd>(),
        of::<optim::Lion>(),
        of::<optim::Adafactor>(),
        of::<optim::Came>(),
        of::<optim::Prodigy>(),
        of::<optim::DAdaptAdam>(),
        of::<optim::DAdaptAdamPreprint>(),
        of::<optim::DAdaptAdan>(),
        of::<optim::DAdaptAdanIp>(),
        of::<optim::DAdaptAdaGrad>(),
        of::<optim::DAdaptLion>(),
        of::<optim::DAdaptSgd>(),
        of::<optim::ScheduleFreeAdamW>(),
        of::<optim::ScheduleFreeRAdam>(),
        of::<optim::ScheduleFreeSgd>(),
        of::<optim::AdamW8bit>(),
        of::<optim::Lion8bit>(),
    ]
}
