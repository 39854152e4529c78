//! `P09xx`: the run itself.

use super::{Code, code};

pub(super) const CODES: &[Code] = &[
    code(
        "P0900",
        "the run was interrupted",
        "The run was asked to stop. The training state was saved; `pipe run FILE --resume` continues exactly there.",
    ),
    code(
        "P0901",
        "the loss is not finite",
        "The loss became infinite or not-a-number, so the weights would be lost with the next step. The run stopped before it; the last saved state and checkpoints are untouched. With `fused_backward` a loss is looked at before the backward pass and each gradient before the step of its own tensor; tensors behind it have stepped by then, in memory alone. Usual causes, in order: a learning rate that is too high, f16 without loss scaling (use bf16 or f32), a damaged image or latent in the batch named.",
    ),
    code(
        "P0902",
        "a node got a value it cannot use",
        "A node received another kind of value than its port stands for. This is a fault of `pipe`; please report it with the document.",
    ),
    code(
        "P0903",
        "a file cannot be written",
        "Writing failed: the disk is full, the folder is read-only, or a quota is used up. Nothing that was complete before is harmed: files are written under a temporary name and renamed when they are whole. Make room and continue with `--resume`.",
    ),
    code(
        "P0904",
        "the device is not available",
        "The device named is not in this machine, is used up by another program, or this build has no support for it. `pipe doctor` lists the devices that can be used.",
    ),
    code(
        "P0905",
        "out of memory",
        "The device or the machine has no memory left. `pipe plan FILE` shows which phase needs how much; see P0501 for what to change.",
    ),
    code(
        "P0906",
        "the run's folder is in use",
        "Another run is writing into this folder. Wait for it, stop it, or give `output` another folder.",
    ),
    code(
        "P0907",
        "the folder holds another run",
        "The folder already has the files of a run, which would be mixed up with the new one. Continue it with `--resume`, give `output` or `name` another value, or remove the folder.",
    ),
    code(
        "P0908",
        "the pipeline changed since the state was saved",
        "Continuing means going on exactly as if the run had never stopped, which a changed model, data set, loss or optimizer makes impossible. What may change: the device, the number of steps or epochs, when states are saved, the folder, and nodes that only save, preview, measure or log, with all that serves them alone. A default that is written out is no change, and neither are weights that were moved. Start a new run for anything else.",
    ),
    code(
        "P0909",
        "the saved state cannot be used",
        "The saved training state is damaged or was written by another version. The state before it is kept beside it: remove the damaged folder under `state/` and resume again.",
    ),
    code(
        "P0910",
        "a node did not keep its contract",
        "A node made another number of values than it has outputs, or no driver although it should drive the run. This is a fault of `pipe`; please report it with the document.",
    ),
    code(
        "P0911",
        "a node failed",
        "A node stopped with an error of its own while it was built or while the run went on. The message says what it reported.",
    ),
];
