"""Masks, sample weights and losses towards the base model: short LoRA runs on the tiny SD1 U-Net and on FLUX.

The rows are those of `lora_trajectory` and `lora_trajectory_flux`; what is added to them is stored here. The formulas:

    sample     l_i = w_i · mean(m_i · (f(x_i) - y_i)^2), m over the places, repeated over the channels
    preserved  y_i = base(x_i), the model without the adapter, without gradient
    class      + v_i · mean((f(x_i, class text) - base(x_i, class text))^2)
    batch      the mean of l_i over the samples

A mask with a floor is floor + (1 - floor) m; normalised, w_i is divided by the mean of the mask.
"""

from common import CONTEXT, FIXTURES, gen, randn, save_tensors, tiny_unet
from make_flow_lora import FLUX_CONTEXT, FLUX_POOLED, FusedLora, flux_output, flux_table, noisy, tiny_flux
from make_lora_trajectory import Lora, schedule
from training import ADAMW, rows

import torch
from safetensors.torch import load_file

OUT = FIXTURES / "preserve"
STEPS, LR = 8, 1e-3
CASES = {
    "masked": ("loss_mask", "loss_weights"),
    "floor": ("loss_mask",),
    "preserve": ("preserve",),
    "class": ("class_context", "class_pooled", "class_weights"),
    "all": ("loss_mask", "loss_weights", "preserve", "class_context", "class_pooled", "class_weights"),
}


def extras(h, w, tokens, context, pooled, seed):
    """Masks with empty, full and partly covered places, and everything else that a replay may hold for a loss."""
    g = gen(seed)
    mask = torch.rand(8, h, w, generator=g)
    mask[:, : h // 3] = 0
    mask[:, :, w // 2 :] = 1
    out = {
        "loss_mask": mask,
        "loss_weights": torch.tensor([1.0, 0.25, 1.0, 2.0, 0.5, 1.0, 1.0, 0.75]),
        "preserve": torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]),
        "class_context": randn(8, tokens, context, seed=seed + 1),
        "class_weights": torch.tensor([1.0, 1.0, 0.0, 0.5, 1.0, 2.0, 1.0, 1.0]),
    }
    if pooled:
        out["class_pooled"] = randn(8, pooled, seed=seed + 2)
    return out


def loss_of(predict, base, target, x, case):
    """`predict` and `base` map rows to outputs; gives the scalar that is minimised, and its second part."""
    prediction, wanted = predict(x), target(x)
    if "preserve" in x:
        with torch.no_grad():
            kept = base(x)
        wanted = torch.where(x["preserve"][:, None, None, None] > 0, kept, wanted)
    each = (prediction - wanted) ** 2
    weight = x.get("loss_weights", torch.ones(len(prediction)))
    if "loss_mask" in x:
        mask = x["loss_mask"]
        if case == "floor":
            mask = 0.1 + 0.9 * mask
            weight = weight / mask.mean(dim=(1, 2))
        each = each * mask[:, None]
    loss = (weight * each.mean(dim=(1, 2, 3))).mean()
    second = torch.zeros(())
    if "class_context" in x:
        named = x | {"context": x["class_context"]} | ({"pooled": x["class_pooled"]} if "class_pooled" in x else {})
        with torch.no_grad():
            kept = base(named)
        second = (x["class_weights"] * ((predict(named) - kept) ** 2).mean(dim=(1, 2, 3))).mean()
    return loss + second, second.detach()


def run(parameters, predict, base, target, replay, case):
    optimizer = torch.optim.AdamW(parameters, lr=LR, **ADAMW)
    losses, seconds, norms = [], [], []
    for k in range(STEPS):
        loss, second = loss_of(predict, base, target, rows(replay, k), case)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        seconds.append(second)
    return {f"{case}.losses": torch.stack(losses), f"{case}.norms": torch.stack(norms), f"{case}.class": torch.stack(seconds)}


def sd1():
    rows_of = load_file(FIXTURES / "lora_trajectory" / "replay.safetensors")
    init = load_file(FIXTURES / "lora_trajectory" / "init.safetensors")
    more = extras(16, 16, 77, CONTEXT, None, 601)
    out, scheduler = {}, schedule()
    for case, keys in CASES.items():
        lora = Lora(tiny_unet())
        named = lora.named_parameters()
        with torch.no_grad():
            for key, value in named.items():
                value.copy_(init[key])

        def predict(x):
            sample = scheduler.add_noise(x["latents"], x["noise"], x["timesteps"])
            return lora.model(sample, x["timesteps"], x["context"]).sample

        def base(x):
            with lora.model.disable_adapter():
                return predict(x)

        replay = rows_of | {k: more[k] for k in keys if k in more}
        out |= run(list(named.values()), predict, base, lambda x: x["noise"], replay, case)
    return more, out


def flux():
    rows_of = load_file(FIXTURES / "lora_trajectory_flux" / "replay.safetensors")
    init = load_file(FIXTURES / "lora_trajectory_flux" / "init.safetensors")
    more = extras(8, 6, 7, FLUX_CONTEXT, FLUX_POOLED, 611)
    plain, blocks = tiny_flux(), ("double_blocks.", "single_blocks.")
    lora = FusedLora(tiny_flux(), flux_table(plain), lambda n: n.startswith(blocks))
    for key, value in lora.factors.items():
        value.data.copy_(init[key])
    output = lambda model: lambda x: flux_output(model, noisy(x), x)
    target = lambda x: x["noise"] - x["latents"]
    return more, run(list(lora.factors.values()), output(lora.model), output(plain), target, rows_of | more, "all")


def main():
    for name, make in [("sd1", sd1), ("flux", flux)]:
        more, out = make()
        save_tensors(OUT / f"{name}_rows.safetensors", more)
        save_tensors(OUT / f"{name}.safetensors", out)
        for key, value in out.items():
            print("   ", key, [round(v, 5) for v in value.tolist()])


if __name__ == "__main__":
    main()
