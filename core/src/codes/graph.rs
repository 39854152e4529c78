//! `P02xx`: nodes, ports and edges.

use super::{Code, code};

pub(super) const CODES: &[Code] = &[
    code(
        "P0201",
        "unknown node type",
        "No node type has this name. A type is `kind.name`, such as `adapter.lora`; `pipe nodes` lists them all.",
    ),
    code(
        "P0202",
        "unknown node",
        "A port names a node that the document does not have. Names are those of the tables under `nodes`.",
    ),
    code(
        "P0203",
        "unknown output",
        "After the dot stands an output that this node type does not have. `pipe nodes TYPE` lists the outputs.",
    ),
    code(
        "P0204",
        "a port filled with the wrong type",
        "Each port takes certain types of values (Samples, Vae, TextEncoder, Batches, Model, Trainable, Loss, Update, Validation). The node named gives another one.",
    ),
    code(
        "P0205",
        "a port filled at the wrong rate",
        "The value comes into being later than the port needs it. Rates, in order: setup (once, before training), sample (once an image, while caches are filled), step (every optimizer step), event (at a save or a preview). A value may be used at its own rate or a later one.",
    ),
    code(
        "P0206",
        "a cycle",
        "The nodes feed each other in a circle, so none can be built first. One of the ports on the way names the wrong node.",
    ),
    code("P0207", "a port that is not filled", "The node needs this input. Name the node that gives it."),
    code(
        "P0208",
        "an unused node",
        "No other node uses what this node makes, so it would be loaded for nothing. Use it or remove it.",
    ),
    code("P0209", "a node that feeds itself", "The port names the node it belongs to."),
    code("P0210", "a node named twice in one port", "The list of a port names the same output twice."),
    code(
        "P0211",
        "no node drives the run",
        "A run needs exactly one node that makes optimizer steps: an optimizer, such as `optimizer.adamw`.",
    ),
    code(
        "P0212",
        "several nodes drive the run",
        "A run needs exactly one node that makes optimizer steps; this document has several.",
    ),
    code(
        "P0213",
        "two nodes write the same path",
        "Two nodes would write the same file or folder and destroy each other's work. Give one of them another path.",
    ),
    code("P0214", "no nodes", "The document has no node. `pipe init` writes a pipeline to begin with."),
    code(
        "P0215",
        "a node name of the wrong form",
        "Names of nodes begin with a letter or `_` and go on with letters, digits, `_` and `-`. A dot separates a node from its output, so it cannot be part of a name.",
    ),
    code(
        "P0216",
        "an output has to be chosen",
        "The node has several outputs that would fit, or none. Write `node.output`.",
    ),
];
