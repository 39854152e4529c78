//! `optimizer.adafactor`: little state, and on request a rate of its own.

use pipe_core::node::About;
use pipe_train::optim::{Adafactor, OptimizerConfig};
use serde_json::Value as Json;

use super::node::{Algorithm, OwnSchedule, changed, on_host};

impl Algorithm for Adafactor {
    const ABOUT: About = About {
        type_name: "optimizer.adafactor",
        summary: "Adafactor: second moments by row and column; without `learning_rate` it sets its own rate.",
        details: on_host!(
            "Shazeer and Stern 2018, as transformers has it. Without a `learning_rate` the rate is `min(0.01, "
            "1/√k)` of update k times the size of the weights, the same for all groups; a rate or a schedule "
            "beside `relative_step` is refused."
        ),
        example: "adafactor:\n  type: optimizer.adafactor\n  loss: loss\n  learning_rate: 1e-4",
    };

    const CLASS: &'static str = "transformers.optimization.Adafactor";

    fn config(&self) -> OptimizerConfig {
        OptimizerConfig::Adafactor(self.clone())
    }

    /// The defaults of transformers are relative steps and scaling.
    fn arguments(&self) -> Vec<(String, Json)> {
        let relative = self.is_relative();
        let scales = self.scale_parameter.unwrap_or(relative);
        let named = ["relative_step", "scale_parameter"];
        let mut list = vec![("relative_step".to_string(), relative.into()), ("scale_parameter".into(), scales.into())];
        list.extend(changed(self).into_iter().filter(|(name, _)| !named.contains(&name.as_str())));
        list
    }

    fn own_schedule(&self) -> Option<OwnSchedule> {
        let settings = self.clone();
        let text = "relative steps, before they are scaled by the size of the weights".to_string();
        let own =
            OwnSchedule { name: "adafactor", text, at: Box::new(move |t| settings.relative_rate(t + 1)), warmup: None };
        self.is_relative().then_some(own)
    }
}
