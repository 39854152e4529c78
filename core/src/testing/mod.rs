//! A toy registry: small node types of every kind that train nothing, for tests.
//!
//! The values tell when they are made, unloaded and dropped ([`trace`]); the driver's "weights"
//! are one number that depends on every step, so that resuming can be compared exactly.

mod nodes;
mod run;
mod train;

use std::cell::RefCell;

use crate::node::Typed;
use crate::registry::Registry;

/// All toy node types.
pub fn registry() -> Registry {
    Registry::new(vec![
        Typed::<nodes::Images>::boxed(),
        Typed::<nodes::Vae>::boxed(),
        Typed::<nodes::Text>::boxed(),
        Typed::<nodes::Bundle>::boxed(),
        Typed::<nodes::Cache>::boxed(),
        Typed::<nodes::Unet>::boxed(),
        Typed::<train::Lora>::boxed(),
        Typed::<train::Merge>::boxed(),
        Typed::<train::Diffusion>::boxed(),
        Typed::<run::AdamW>::boxed(),
        Typed::<run::Faulty>::boxed(),
        Typed::<run::SaveAdapter>::boxed(),
        Typed::<run::Preview>::boxed(),
        Typed::<run::Metrics>::boxed(),
        Typed::<run::Summary>::boxed(),
    ])
}

/// A document that passes, with every kind of node.
pub const GOOD: &str = include_str!("good.yaml");

thread_local! {
    static TRACE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What happened on this thread since the last call.
pub fn trace() -> Vec<String> {
    TRACE.with(|trace| std::mem::take(&mut *trace.borrow_mut()))
}

fn note(line: impl Into<String>) {
    let _ = TRACE.try_with(|trace| trace.borrow_mut().push(line.into()));
}

/// A document of `nodes` nodes: loaders, encoders and caches that one loss reads through a chain
/// of merges. For the benchmark.
pub fn large(nodes: usize) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("version: 1\nname: large\nnodes:\n");
    let groups = nodes.saturating_sub(4) / 4;
    for i in 0..groups {
        let _ = writeln!(text, "  photos_{i}: {{ type: loader.images, path: photos/{i}, resolution: 512 }}");
        let _ = writeln!(text, "  vae_{i}: {{ type: encoder.vae, weights: vae_{i}.safetensors }}");
        let _ = writeln!(text, "  text_{i}: {{ type: encoder.text, weights: clip.safetensors, max_tokens: 77 }}");
        let _ = writeln!(
            text,
            "  cache_{i}:\n    type: cacher.memory\n    samples: photos_{i}\n    vae: vae_{i}\n    text: [text_{i}]"
        );
    }
    let caches: Vec<String> = (0..groups).map(|i| format!("cache_{i}")).collect();
    let _ = writeln!(text, "  unet: {{ type: model.unet, weights: unet.safetensors }}");
    let _ = writeln!(text, "  lora: {{ type: adapter.lora, model: unet, rank: 16 }}");
    let _ = writeln!(text, "  loss: {{ type: loss.diffusion, model: lora, batch: [{}] }}", caches.join(", "));
    let _ = writeln!(text, "  adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-4 }}");
    text
}
