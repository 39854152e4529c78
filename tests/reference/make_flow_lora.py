"""LoRA runs on the tiny SD3, SD3.5, FLUX and Lumina: flow matching, adapters of the authors' linear layers.

kohya's files name the authors' layers, where query, key and value are one matrix with one
pair of factors. Here that is computed on diffusers' networks: each of the separate layers
adds its rows of `up` to the shared `down`; both copies of Lumina-Next's query projection add all. A merged copy, `W + alpha/rank up down` in the
authors' layout turned into diffusers', has to give the same output.
"""

import copy

from common import FIXTURES, randn, save_tensors, spread
from layouts import lumina_next, sd3, swap_halves, to_diffusers, to_original
from make_flux import CONTEXT as FLUX_CONTEXT, POOLED as FLUX_POOLED, predict as flux_predict
from make_flux import table as flux_table, tiny_flux, unpack
from make_lumina import CAPTION, forward_next, lumina2_table, predict as lumina_predict, tiny_lumina2, tiny_lumina_next
from make_sd3 import CONTEXT, LAYERS, POOLED, tiny_sd3
from network import cast
from training import check, rows, seed_factors, train

import torch

RANK, ALPHA = 2, 1.0


class Part(torch.nn.Module):
    """One of diffusers' layers with its rows of an adapter of the authors' layer."""

    def __init__(self, linear, down, up, index):
        super().__init__()
        self.linear, self.down, self.up, self.index = linear, [down], [up], index

    @property
    def weight(self):
        """T5's layers ask for its type."""
        return self.linear.weight

    def forward(self, x):
        return self.linear(x) + ALPHA / RANK * (x @ self.down[0].T @ self.up[0][self.index].T)


class FusedLora:
    """Adapters of the table's linear layers that `wanted` picks, by their kohya names."""

    def __init__(self, model, table, wanted):
        self.model, self.table, self.factors, self.paths = model.requires_grad_(False), table, {}, {}
        modules = dict(model.named_modules())
        dtype = next(model.parameters()).dtype
        for original, source in sorted(table.items()):
            layers = [modules.get(path) for path in source.paths]
            if not wanted(original) or not all(isinstance(layer, torch.nn.Linear) for layer in layers):
                continue
            name = "lora_unet_" + original.replace(".", "_")
            sizes = [layer.out_features for layer in (layers[:1] if source.tied else layers)]
            down = torch.nn.Parameter(torch.zeros(RANK, layers[0].in_features, dtype=dtype))
            up = torch.nn.Parameter(torch.zeros(sum(sizes), RANK, dtype=dtype))
            self.factors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            self.paths[name] = original
            index = torch.arange(sum(sizes))
            if source.tied:
                index = [index] * len(layers)
            else:
                index = [swap_halves(index)] if source.swap else index.split(sizes)
            for path, layer, part in zip(source.paths, layers, index):
                parent, _, child = path.rpartition(".")
                setattr(modules[parent], child, Part(layer, down, up, part))

    def state(self):
        out = {k: v.detach().clone() for k, v in self.factors.items()}
        return out | {f"{name}.alpha": torch.tensor(ALPHA) for name in self.paths}

    def merged(self, plain):
        """A network without adapters whose weights contain them."""
        plain = copy.deepcopy(plain)
        state = plain.state_dict()
        original = {k: v.clone() for k, v in to_original(self.table, state).items()}
        for name, path in self.paths.items():
            down, up = (self.factors[f"{name}.lora_{x}.weight"].detach() for x in ("down", "up"))
            original[path + ".weight"] += ALPHA / RANK * (up @ down)
        plain.load_state_dict(to_diffusers(self.table, original, state))
        return plain


def noisy(x):
    sigma = x["sigmas"][:, None, None, None]
    return (1 - sigma) * x["latents"] + sigma * x["noise"]


def sd3_output(model, sample, x):
    return model(sample, x["context"], x["pooled"], x["timesteps"]).sample


def flux_output(model, sample, x):
    return unpack(flux_predict(model, sample, x["sigmas"], x["context"], x["pooled"], x["guidance"]), *sample.shape[-2:])


def schnell_output(model, sample, x):
    return unpack(flux_predict(model, sample, x["sigmas"], x["context"], x["pooled"]), *sample.shape[-2:])


def lumina_output(model, sample, x):
    return lumina_predict(model, sample, x["sigmas"], x["context"], x["context_mask"])


def next_output(model, sample, x):
    """Without the half of the channels that estimates a variance."""
    return forward_next(model, {"sample": sample, **x})["out"]


def make_replay(context, tokens, pooled=None, guidance=False, lengths=None, channels=16, seed=0):
    # Multiples of 1/32: exact in float32, and so is 1000 times them.
    sigmas = torch.tensor([0.0625, 0.875, 0.25, 0.5, 0.96875, 0.125, 0.375, 0.75])
    replay = {
        "latents": randn(8, channels, 8, 6, seed=seed),
        "noise": randn(8, channels, 8, 6, seed=seed + 1),
        "sigmas": sigmas,
        "timesteps": 1000 * sigmas,
        "context": randn(8, tokens, context, seed=seed + 2),
    }
    if pooled:
        replay["pooled"] = randn(8, pooled, seed=seed + 3)
    if guidance:
        replay["guidance"] = torch.ones(8)
    if lengths:
        mask = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
        replay["context_mask"] = mask.to(torch.int64)
    return replay


def make(name, model, table, wanted, count, output, sign, replay, seed, size):
    """`sign` 1: the network gives noise - latents; -1: latents - noise."""
    folder = FIXTURES / f"lora_trajectory_{name}"
    save_tensors(folder / "replay.safetensors", replay)

    def loss_of(net):
        def loss(x):
            target = sign * (x["noise"] - x["latents"])
            return torch.nn.functional.mse_loss(output(net, noisy(x), x), target)

        return loss

    def run(dtype):
        lora = FusedLora(copy.deepcopy(model).to(dtype), table, wanted)
        # The same float32 values in both.
        start = {k: torch.empty(v.shape) for k, v in lora.factors.items()}
        seed_factors(start, seed, size)
        for key, factor in lora.factors.items():
            factor.data.copy_(start[key])
        initial = lora.state()
        result = train(lora.factors, cast(replay, dtype), loss_of(lora.model))
        return lora, initial, result

    lora, initial, result = run(torch.float32)
    assert len(lora.paths) == count, len(lora.paths)
    double, _, exact = run(torch.float64)
    check((result, lora.state()), (exact, double.factors), initial)

    x = rows(replay, 0)
    sample = noisy(x)
    with torch.no_grad():
        base, adapted = output(model, sample, x), output(lora.model, sample, x)
        torch.testing.assert_close(output(lora.merged(model), sample, x), adapted, rtol=0, atol=1e-5)
    assert (adapted - base).abs().max() > 0.1
    conditioning = {k: v for k, v in x.items() if k not in ("latents", "noise")}
    losses, first = result
    losses |= {"grad0." + k: first[k] for k in spread(sorted(first), 12)}
    if name == "sd3":
        # The kohya trainer compares estimates of the clean latents: sigma^2 times as much per sample.
        with torch.no_grad():
            values = []
            for k in range(3):
                x0 = rows(replay, k)
                estimate = noisy(x0) - x0["sigmas"][:, None, None, None] * output(model, noisy(x0), x0)
                values.append(torch.nn.functional.mse_loss(estimate, x0["latents"]))
        losses["losses_x0_base"] = torch.stack(values)
    save_tensors(folder / "init.safetensors", initial)
    save_tensors(folder / "final.safetensors", lora.state())
    save_tensors(folder / "losses.safetensors", losses)
    save_tensors(folder / "io.safetensors", {"sample": sample, **conditioning, "out": base, "out_with_lora": adapted})
    print("   ", [round(v, 4) for v in losses["losses"].tolist()])


def main():
    replay = make_replay(CONTEXT, 9, pooled=POOLED, seed=511)
    make("sd3", tiny_sd3(), sd3(LAYERS), lambda n: n.startswith("joint_blocks."), 17, sd3_output, 1, replay, 515, 1.7)

    model = tiny_flux()
    replay = make_replay(FLUX_CONTEXT, 7, pooled=FLUX_POOLED, guidance=True, seed=521)
    blocks = ("double_blocks.", "single_blocks.")
    make("flux", model, flux_table(model), lambda n: n.startswith(blocks), 16, flux_output, 1, replay, 525, 0.5)

    model = tiny_lumina2()
    replay = make_replay(CAPTION, 9, lengths=[9, 5, 3, 9, 7, 7, 1, 8], seed=531)
    blocks = ("layers.", "noise_refiner.", "context_refiner.", "final_layer.")
    make("lumina2", model, lumina2_table(model), lambda n: n.startswith(blocks), 25, lumina_output, -1, replay, 535, 1.6)

    model = tiny_sd3(medium35=True)
    replay = make_replay(CONTEXT, 9, pooled=POOLED, seed=611)
    blocks = ("joint_blocks.",)
    make("sd35m", model, sd3(LAYERS, 1), lambda n: n.startswith(blocks), 19, sd3_output, 1, replay, 615, 1.7)

    model = tiny_flux(dev=False)
    replay = make_replay(FLUX_CONTEXT, 7, pooled=FLUX_POOLED, seed=621)
    blocks = ("double_blocks.", "single_blocks.")
    make("flux_schnell", model, flux_table(model), lambda n: n.startswith(blocks), 23, schnell_output, 1, replay, 625, 0.5)

    model = tiny_lumina_next()
    replay = make_replay(CAPTION, 9, lengths=[9, 5, 3, 9, 7, 7, 1, 8], channels=4, seed=631)
    blocks = ("layers.", "final_layer.")
    table = lumina_next(len(model.layers))
    make("lumina_next", model, table, lambda n: n.startswith(blocks), 22, next_output, -1, replay, 635, 1.6)


if __name__ == "__main__":
    main()
