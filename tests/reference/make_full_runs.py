"""Five steps of full fine-tuning on each family's tiny network, with the batches of its LoRA run.

Otherwise as the LoRA runs: squared error over everything, clipping to 1, AdamW at 1e-4. `fused_*` update each tensor as
soon as its gradient is there, clipped by itself.
"""

import copy

from common import FIXTURES, save_tensors, spread
from layouts import lumina_next, sd3, to_original
from make_flow_lora import flux_output, lumina_output, next_output, noisy as flow_noisy, schnell_output, sd3_output
from make_flux import table as flux_table, tiny_flux
from make_lumina import lumina2_table, tiny_lumina2, tiny_lumina_next
from make_sd2_lora import noisy, predict as sd2_predict, tiny_sd2_unet, velocity
from make_sd3 import LAYERS, tiny_sd3
from make_sdxl_lora import predict as sdxl_predict
from make_sdxl_unet import tiny_sdxl_unet
from network import cast
from training import ADAMW, LOSS_ERROR, NORM_ERROR, WEIGHT_ERROR, off, rows

from safetensors.torch import load_file

import torch

STEPS, LR, KEPT = 5, 1e-4, 12
# Between the norms of the tensors' gradients.
MAX_NORM_ALONE = 0.05


def flow(sign):
    return flow_noisy, lambda x: sign * (x["noise"] - x["latents"])


def epsilon(x):
    return x["noise"]


def run(model, replay, output, noise, target):
    parameters = [p for p in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, **ADAMW)
    losses, norms = [], []
    for k in range(STEPS):
        x = rows(replay, k)
        loss = torch.nn.functional.mse_loss(output(model, noise(x), x), target(x))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms)


def run_fused(model, replay, output, noise, target, rename):
    """As `run`, with PyTorch's recipe of an optimizer step in the backward pass.

    The authors keep some matrices of diffusers' as one tensor, which is clipped and updated when all its parts are there.
    """
    named = dict(model.named_parameters())
    numbers = {name: i for i, name in enumerate(model.state_dict())}
    marked = rename({name: torch.full_like(value, numbers[name]) for name, value in model.state_dict().items()})
    whole = [[p for n, p in named.items() if numbers[n] in set(mark.unique().tolist())] for mark in marked.values()]
    group_of = {p: group for group in whole for p in group}
    optimizers = {p: torch.optim.AdamW([p], lr=LR, **ADAMW) for p in named.values()}
    squares, clipped = [], []

    def hook(p):
        group = group_of[p]
        if any(q.grad is None for q in group):
            return
        norm = torch.nn.utils.clip_grad_norm_(group, MAX_NORM_ALONE)
        squares.append(norm.detach() ** 2)
        clipped.append(bool(norm > MAX_NORM_ALONE))
        for q in group:
            optimizers[q].step()
            optimizers[q].zero_grad()

    for p in named.values():
        p.register_post_accumulate_grad_hook(hook)
    losses, norms = [], []
    for k in range(STEPS):
        x = rows(replay, k)
        loss = torch.nn.functional.mse_loss(output(model, noise(x), x), target(x))
        loss.backward()
        norms.append(torch.stack(squares).sum().sqrt())
        squares.clear()
        losses.append(loss.detach())
    assert 0.1 < sum(clipped) / len(clipped) < 0.9, sum(clipped) / len(clipped)
    return torch.stack(losses), torch.stack(norms)


def make(name, model, output, noise, target, rename, run=run):
    """`rename` gives the weights by the names `pipe` has for them: diffusers' of U-Nets, the authors' of transformers."""
    replay = load_file(FIXTURES / f"lora_trajectory_{name}" / "replay.safetensors")
    before = {k: v.clone() for k, v in rename(model.state_dict()).items()}
    double = copy.deepcopy(model).double()
    more = [rename] if run is run_fused else []
    losses, norms = run(model.train(), replay, output, noise, target, *more)
    exact = run(double.train(), cast(replay, torch.float64), output, noise, target, *more)
    after, exactly = rename(model.state_dict()), rename(double.state_dict())

    def error(keys):
        wrong = sum(float((after[k].double() - exactly[k]).pow(2).sum()) for k in keys)
        return (wrong / sum(float((before[k].double() - exactly[k]).pow(2).sum()) for k in keys)) ** 0.5

    # Where a gradient is zero in theory, as of the bias of keys, its rounding decides the sign of a step.
    sound = [k for k in sorted(after) if not torch.equal(after[k], before[k]) and error([k]) < WEIGHT_ERROR]
    kept = spread(sound, KEPT)
    loss, norm = off(losses, exact[0]), off(norms, exact[1])
    print(f"    float32 error: losses {loss:.1e}, norms {norm:.1e}, update {error(kept):.1e} ({len(sound)} of {len(after)})")
    assert loss < LOSS_ERROR and norm < NORM_ERROR and len(sound) > len(after) / 2
    stored = {"losses": losses, "grad_norms": norms}
    stored |= {f"before.{k}": before[k] for k in kept} | {f"after.{k}": after[k] for k in kept}
    file = f"fused_{name}" if run is run_fused else name
    save_tensors(FIXTURES / "full_runs" / f"{file}.safetensors", stored)


def main():
    make("sd2", tiny_sd2_unet(), sd2_predict, noisy, velocity, dict)
    make("sd2", tiny_sd2_unet(), sd2_predict, noisy, velocity, dict, run_fused)
    make("sdxl", tiny_sdxl_unet(), sdxl_predict, noisy, epsilon, dict)
    for name, medium35 in [("sd3", False), ("sd35m", True)]:
        table = sd3(LAYERS, int(medium35))
        make(name, tiny_sd3(medium35), sd3_output, *flow(1), lambda state: to_original(table, state))
    for name, dev in [("flux", True), ("flux_schnell", False)]:
        model = tiny_flux(dev)
        table = flux_table(model)
        output = flux_output if dev else schnell_output
        make(name, model, output, *flow(1), lambda state: to_original(table, state))
    model = tiny_flux(True)
    table = flux_table(model)
    make("flux", model, flux_output, *flow(1), lambda state: to_original(table, state), run_fused)
    model = tiny_lumina2()
    table = lumina2_table(model)
    make("lumina2", model, lumina_output, *flow(-1), lambda state: to_original(table, state))
    model = tiny_lumina_next()
    table = lumina_next(len(model.layers))
    for layer in model.layers:
        # One query projection, as the authors have it.
        layer.attn2.to_q, layer.attn2.norm_q = layer.attn1.to_q, layer.attn1.norm_q
    make("lumina_next", model, next_output, *flow(-1), lambda state: to_original(table, state))


if __name__ == "__main__":
    main()
