"""What the commands on weight files must give: merged weights, best approximations, names.

Base is the tiny SD1-shaped U-Net of `diffusers_dir`. LoHa, LoKr, DoRA, LoCon, GLoRA, (IA)^3, Diag-OFT and BOFT are lycoris-lora's modules, PEFT's names
are peft's own, singular values torch's; LoRA, OFT and whole differences are written out.
"""

import json
import os

from common import FIXTURES, gen, save_json, save_tensors, spread, tiny_unet
from make_keys import UNET_CONV_TARGETS, discover

import torch

# lycoris compiles kernels where it can; the plain torch path is the reference.
os.environ["LYCORIS_KERNEL_BACKEND"] = "torch"

OUT = FIXTURES / "weights_tools"
RATIO = 0.7


def layers(count, conv=True):
    """Layers spread over the U-Net, with the path of each; the first and last 3x3 convolutions among them."""
    found = discover(tiny_unet(), UNET_CONV_TARGETS, "lora_unet")
    chosen = spread(sorted(found), count)
    if conv:
        threes = [name for name in sorted(found) if found[name][1].weight.dim() == 4 and found[name][1].weight.shape[-1] == 3]
        chosen = sorted({*chosen, threes[0], threes[-1]})
    return {name: found[name] for name in chosen}


def path(unet, leaf):
    return next(name for name, module in unet.named_modules() if module is leaf)


def pair(weight, rank, g, scale=1.0):
    """Random factors for a weight: down like the weight with `rank` rows, up 1x1."""
    kernel = weight.shape[2:]
    down = torch.randn(rank, *weight.shape[1:], generator=g) * weight[0].numel() ** -0.5
    up = torch.randn(weight.shape[0], rank, *[1 for _ in kernel], generator=g) * scale
    return down, up


def product(down, up):
    return (up.flatten(1).double() @ down.flatten(1).double()).reshape(up.shape[0], *down.shape[1:])


def lora(chosen, rank, alpha, seed, conv_rank=None):
    g, tensors, deltas = gen(seed), {}, {}
    for name, (_, leaf) in chosen.items():
        r = conv_rank if conv_rank and leaf.weight.dim() == 4 and leaf.weight.shape[-1] == 3 else rank
        down, up = pair(leaf.weight, r, g, 0.5)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}
        deltas[name] = alpha / r * product(down, up)
    return tensors, deltas


def lycoris(kind, chosen, seed):
    """Files and merged weights of lycoris-lora's modules."""
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule
    from lycoris.modules.boft import ButterflyOFTModule
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.glora import GLoRAModule
    from lycoris.modules.ia3 import IA3Module

    make, options = {
        "loha": (LohaModule, {}),
        "loha_tucker": (LohaModule, {"use_tucker": True}),
        "lokr": (LokrModule, {}),
        "lokr_both": (LokrModule, {"lora_dim": 1, "decompose_both": True, "factor": 3}),
        "lokr_tucker": (LokrModule, {"lora_dim": 1, "use_tucker": True, "factor": 2}),
        "locon": (LoConModule, {"use_tucker": True}),
        "dora": (LoConModule, {"weight_decompose": True}),
        "dora_inputs": (LoConModule, {"weight_decompose": True, "wd_on_out": False}),
        "glora": (GLoRAModule, {}),
        "ia3": (IA3Module, {}),
        "ia3_inputs": (IA3Module, {"train_on_input": True}),
        "diag_oft": (DiagOFTModule, {"lora_dim": 4, "constraint": 0.02, "rescaled": True}),
        "boft": (ButterflyOFTModule, {"lora_dim": 10, "rescaled": True}),
    }[kind]
    g, tensors, merged = gen(seed), {}, {}
    for name, (_, leaf) in chosen.items():
        module = make(name, leaf, **{"lora_dim": 2, "alpha": 1.5, **options})
        with torch.no_grad():
            for key, parameter in sorted(module.named_parameters()):
                noise = torch.randn(parameter.shape, generator=g)
                parameter.copy_(parameter * (1 + 0.05 * noise) if key in ("dora_scale", "rescale") else 0.3 * noise)
            if kind.startswith("lo") and kind != "locon":
                # As their forward has it; the get_merged_weight of LoHa and LoKr multiplies by the scale twice.
                whole = leaf.weight + module.get_weight(leaf.weight.shape) * module.scalar
            else:
                whole = module.get_merged_weight(multiplier=1, shape=leaf.weight.shape)[0]
        # At another strength the weight goes that part of the way; of sums that is the usual multiplier.
        merged[name] = leaf.weight.double() + RATIO * (whole.double() - leaf.weight.double())
        tensors |= {f"{name}.{key}": value.detach().float() for key, value in module.state_dict().items()}
    return tensors, merged


def rotation(chosen, seed):
    """OFT: W' = R^T W with R = (I + Q)(I - Q)^-1 by blocks of rows, Q = S - S^T shortened to norm alpha * out."""
    g, tensors, merged, blocks, alpha = gen(seed), {}, {}, 2, 0.02
    for name, (_, leaf) in chosen.items():
        weight = leaf.weight.double()
        n = weight.shape[0] // blocks
        s = torch.randn(blocks, n, n, generator=g) * 0.05
        q = (s - s.transpose(1, 2)).double()
        norm = q.norm()
        q = q * ((norm.clamp(max=alpha * weight.shape[0]) + 1e-8) / (norm + 1e-8))
        unit = torch.eye(n, dtype=torch.float64)
        r = (unit + q) @ torch.linalg.inv(unit - q)
        turned = (r.transpose(1, 2) @ weight.reshape(blocks, n, -1)).reshape(weight.shape)
        merged[name] = weight + RATIO * (turned - weight)
        name = name.replace("lora_", "oft_", 1)
        tensors |= {f"{name}.oft_blocks": s, f"{name}.alpha": torch.tensor(alpha)}
    return tensors, merged


def differences(chosen, seed):
    """Whole differences of weights and of a bias."""
    g, tensors, merged = gen(seed), {}, {}
    for name, (_, leaf) in chosen.items():
        tensors[f"{name}.diff"] = torch.randn(leaf.weight.shape, generator=g) * 0.1
        merged[name] = leaf.weight.double() + RATIO * tensors[f"{name}.diff"].double()
        if leaf.bias is not None:
            tensors[f"{name}.diff_b"] = torch.randn(leaf.bias.shape, generator=g) * 0.1
            merged[name + ".bias"] = leaf.bias.double() + RATIO * tensors[f"{name}.diff_b"].double()
    return tensors, merged


def merges(unet):
    expected = {}

    def add(kind, tensors, merged, chosen):
        save_tensors(OUT / f"{kind}.safetensors", tensors)
        for name, weight in merged.items():
            layer = name.removesuffix(".bias")
            ending = "bias" if name.endswith(".bias") else "weight"
            expected[f"{kind}.{path(unet, chosen[layer][1])}.{ending}"] = weight.float()

    chosen = {name: (kind, unet.get_submodule(path_of)) for name, (kind, path_of) in paths(8).items()}
    for seed, kind in enumerate(["loha", "loha_tucker", "lokr", "lokr_both", "lokr_tucker", "locon", "dora", "dora_inputs", "glora", "ia3", "ia3_inputs", "diag_oft", "boft"]):
        add(kind, *lycoris(kind, chosen, 900 + seed), chosen)
    even = {name: leaf for name, leaf in chosen.items() if leaf[1].weight.shape[0] % 2 == 0}
    add("oft", *rotation(even, 920), even)
    add("full", *differences(chosen, 921), chosen)

    # Two LoRAs, of which the second has other layers as well.
    some = dict(list(chosen.items())[:6])
    first, first_deltas = lora(some, 4, 2.0, 930)
    second, second_deltas = lora(chosen, 3, 1.0, 931, conv_rank=2)
    save_tensors(OUT / "first.safetensors", first)
    save_tensors(OUT / "second.safetensors", second)
    sums = {}
    for name, (_, leaf) in chosen.items():
        sums[name] = 0.8 * first_deltas.get(name, torch.zeros_like(leaf.weight).double()) - 0.5 * second_deltas[name]
        expected[f"both.{path(unet, leaf)}.weight"] = (leaf.weight.double() + sums[name]).float()
    save_tensors(OUT / "merged.safetensors", expected)
    save_tensors(OUT / "sums.safetensors", {name: value.float() for name, value in sums.items()})
    return chosen, first


def paths(count):
    unet = tiny_unet()
    found = discover(unet, UNET_CONV_TARGETS, "lora_unet")
    chosen = layers(count)
    return {name: (found[name][0], path(unet, found[name][1])) for name in chosen}


def order_metadata(path):
    """The writer keeps metadata in a hash map: put in order, the file has the same bytes every time."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(data[:8] + text + data[8 + length :])


def rank_by(values, method, target):
    """The dynamic rules, on all singular values."""
    if method == "sv_ratio":
        return int((values > values[0] / target).sum())
    parts = values**2 if method == "sv_fro" else values
    target = target**2 if method == "sv_fro" else target
    return int(torch.searchsorted(torch.cumsum(parts, 0) / parts.sum(), target)) + 1


def resizes(chosen):
    tensors, deltas = lora(chosen, 8, 4.0, 940)
    # A spectrum that falls, so that the dynamic rules find different ranks.
    for key in list(tensors):
        if key.endswith("lora_up.weight"):
            up = tensors[key]
            falling = torch.tensor([0.6**k for k in range(up.shape[1])]).reshape(1, -1, *[1 for _ in up.shape[2:]])
            tensors[key] = up * falling
            name = key.removesuffix(".lora_up.weight")
            deltas[name] = 4.0 / up.shape[1] * product(tensors[f"{name}.lora_down.weight"], tensors[key])
    save_tensors(OUT / "wide.safetensors", tensors, metadata={"ss_network_dim": "8", "ss_network_alpha": "4.0", "ss_training_comment": "cats"})
    order_metadata(OUT / "wide.safetensors")
    save_tensors(OUT / "wide_deltas.safetensors", {name: delta.float() for name, delta in deltas.items()})
    methods = {"rank": 3, "sv_ratio": 3.0, "sv_fro": 0.9, "sv_cumulative": 0.8}
    out = {method: {} for method in methods}
    for name, delta in deltas.items():
        values = torch.linalg.svdvals(delta.flatten(1))
        for method, target in methods.items():
            conv = delta.dim() == 4 and delta.shape[-1] == 3
            rank = (2 if conv else 3) if method == "rank" else rank_by(values, method, target)
            total = values.square().sum()
            out[method][name] = {
                "rank": rank,
                "error": float(values[rank:].square().sum().sqrt()),
                "kept": float((values[:rank].square().sum() / total).sqrt()),
            }
    save_json(OUT / "resize.json", {"methods": methods, "layers": out})


def extraction(unet, chosen):
    """A model that differs by a known low rank in some layers, by all ranks in others, and in a norm."""
    g, tuned, expected = gen(950), {}, {}
    for number, (name, (_, leaf)) in enumerate(chosen.items()):
        weight = leaf.weight.detach()
        low = number % 2 == 0
        down, up = pair(weight, 2, g, 0.4)
        delta = product(down, up) if low else torch.randn(weight.shape, generator=g).double() * 0.2
        new = (weight.double() + delta).float()
        tuned[f"{path(unet, leaf)}.weight"] = new
        values = torch.linalg.svdvals((new.double() - weight.double()).flatten(1))
        conv = weight.dim() == 4 and weight.shape[-1] == 3
        rank = min(2 if conv else 3, *weight.flatten(1).shape)
        expected[name] = {"rank": rank, "low": low, "norm": float(values.square().sum().sqrt()), "error": float(values[rank:].square().sum().sqrt())}
    norm = unet.get_submodule("conv_norm_out")
    tuned["conv_norm_out.weight"] = norm.weight.detach() + 0.1
    save_tensors(OUT / "tuned.safetensors", tuned)
    save_json(OUT / "extract.json", expected)


def names(unet, first):
    """The keys peft gives the same layers, with alpha in the up factor."""
    from peft import LoraConfig, get_peft_model_state_dict

    modules = sorted({key.rsplit(".lora_", 1)[0].removesuffix(".alpha") for key in first})
    found = discover(unet, UNET_CONV_TARGETS, "lora_unet")
    targets = {path(unet, found[name][1]): name for name in modules}
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=sorted(targets)))
    out = {}
    for key, value in get_peft_model_state_dict(unet).items():
        layer, factor = key.split(".lora_")
        name = targets[layer]
        part = "down" if factor == "A.weight" else "up"
        tensor = first[f"{name}.lora_{part}.weight"]
        assert tensor.shape == value.shape, (key, tensor.shape, value.shape)
        out["unet." + key] = tensor * (2.0 / 4 if part == "up" else 1.0)
    save_tensors(OUT / "peft.safetensors", out)


def main():
    unet = tiny_unet()
    chosen, first = merges(unet)
    resizes(chosen)
    extraction(unet, chosen)
    names(tiny_unet(), first)


if __name__ == "__main__":
    main()
