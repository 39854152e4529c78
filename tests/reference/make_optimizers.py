"""50 steps of every optimizer on fixed gradients, by the packages that publish them.

Weights and gradients come from integer hashes whose values are exact in float32, so that `nodes/train` makes the same
ones and no gradient is stored.

8-bit state: bitsandbytes' own CPU optimizers run here. Its CPU library looks codes up in a table of 65536 places, which is far
too coarse for the map's small numbers (0 becomes 2e-5), so its quantiser is replaced by the nearest code, which is what its
CUDA kernels and its PyTorch fallback compute. The CUDA kernels differ in two more ways, decay after the step and momentum that
keeps its sign; those runs (`_cuda`) are the kernels' formula, written out below with bitsandbytes' maps.
"""

import math

from common import FIXTURES, save_json
from make_losses import save

import bitsandbytes
import numpy as np
import torch
from bitsandbytes import functional as bnb
from bitsandbytes.backends.cpu import ops as bnb_cpu
from came_pytorch import CAME
from dadaptation import DAdaptAdaGrad, DAdaptAdam, DAdaptAdan, DAdaptLion, DAdaptSGD
from dadaptation.experimental.dadapt_adam_preprint import DAdaptAdamPreprint
from dadaptation.experimental.dadapt_adan_ip import DAdaptAdanIP
from lion_pytorch import Lion
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree
from transformers.optimization import Adafactor, AdafactorSchedule

OUT = FIXTURES / "train"
STEPS = 50
# Turns back and forth, so that estimated distances find an end.
DRIFT = [1, 1, 1, 1, 0.5, -0.5, -1, -1, -0.5, 0.5]
SMALL = {"a": [7, 5], "b": [16], "conv": [3, 4, 3, 3], "zero": [8, 3]}
WIDE = {"wide": [70, 61], "b": [16]}
MASK = (1 << 64) - 1


def mixed(seed, k, n):
    """splitmix64 of (seed, k, i) for i < n."""
    i = np.arange(n, dtype=np.uint64)
    start = (seed * 0xD1342543DE82EF95 + k * 0x2545F4914F6CDD1D) & MASK
    with np.errstate(over="ignore"):
        x = i + np.uint64(start) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed, k, n):
    """Of [-1, 1), 24 bits."""
    return ((mixed(seed, k, n) >> np.uint64(40)).astype(np.float32) - np.float32(1 << 23)) / np.float32(1 << 23)


def tensors(shapes):
    out = {}
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        n = math.prod(shape)
        start = np.zeros(n, np.float32) if name == "zero" else uniform(8 * seed, 0, n)
        out[name] = (torch.from_numpy(start).reshape(shape).clone(), seed)
    return out


def gradient(seed, k, shape):
    """A turning drift of many sizes and noise half as large; element 0 is always 0."""
    n = math.prod(shape)
    size = np.ldexp(np.float32(1), -(mixed(8 * seed + 1, 0, n) & np.uint64(7)).astype(np.int32)).astype(np.float32)
    g = size * (np.float32(DRIFT[k % 10]) * uniform(8 * seed + 2, 0, n) + np.float32(0.5) * uniform(8 * seed + 3, k, n))
    g[0] = 0
    return torch.from_numpy(g).reshape(shape).clone()


def factor(k, warmup):
    return min(1.0, k / warmup) if warmup else 1.0


CASES = []
VALUES = {}


def run(name, config, make, shapes=SMALL, rate=None, warmup=0, after=None):
    """`make(parameters)` is the library's optimizer; `after(optimizer, parameters, keep)` stores more."""
    made = tensors(shapes)
    parameters = {n: torch.nn.Parameter(t.clone()) for n, (t, _) in made.items()}
    optimizer = make(list(parameters.values()))
    rates = []
    if hasattr(optimizer, "train"):
        optimizer.train()
    for k in range(STEPS):
        for n, p in parameters.items():
            p.grad = gradient(made[n][1], k, shapes[n])
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(k, warmup)
        optimizer.step()
        if isinstance(optimizer, Adafactor):
            rates.append(float(AdafactorSchedule(optimizer).get_lr()[0]) if rate is None else 0.0)
        if k == 9:
            VALUES.update({f"{name}.{n}.after_10": p.detach().clone() for n, p in parameters.items()})
    VALUES.update({f"{name}.{n}.final": p.detach().clone() for n, p in parameters.items()})
    if "d" in optimizer.param_groups[0]:
        VALUES[f"{name}.d"] = torch.tensor([optimizer.param_groups[0]["d"]], dtype=torch.float64)
    if rates and rate is None:
        VALUES[f"{name}.rates"] = torch.tensor(rates, dtype=torch.float64)
    if after:
        after(optimizer, parameters, lambda key, value: VALUES.update({f"{name}.{key}": value}))
    CASES.append(dict(name=name, config=config, rate=rate or 0.0, warmup=warmup, tensors=sorted(shapes.items())))


def classic():
    common = dict(betas=(0.9, 0.999), eps=1e-8)
    run("adamw", {"type": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, weight_decay=0.1, **common), rate=1e-2)
    run("adamw_warm", {"type": "adamw"}, lambda p: torch.optim.AdamW(p, weight_decay=0.01, **common), rate=1e-2, warmup=5)
    run("adam", {"type": "adam", "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, weight_decay=0.1, **common), rate=1e-2)
    for name, momentum, nesterov, decay in [("nesterov", 0.9, True, 0.1), ("momentum", 0.8, False, 0.0), ("sgd", 0.0, False, 0.1)]:
        run(
            name,
            {"type": "sgd", "momentum": momentum, "nesterov": nesterov, "weight_decay": decay},
            lambda p: torch.optim.SGD(p, lr=1, momentum=momentum, nesterov=nesterov, weight_decay=decay),
            rate=1e-2,
        )
    run("lion", {"type": "lion", "weight_decay": 0.1}, lambda p: Lion(p, weight_decay=0.1), rate=1e-3)
    run(
        "lion_decoupled",
        {"type": "lion", "learning_rate": 1e-3, "weight_decay": 0.01, "decoupled_weight_decay": True},
        lambda p: Lion(p, lr=1e-3, weight_decay=0.01, decoupled_weight_decay=True),
        rate=1e-3, warmup=5,
    )


def factored():
    run("adafactor_relative", {"type": "adafactor"}, lambda p: Adafactor(p, lr=None))
    run(
        "adafactor_warmup",
        {"type": "adafactor", "warmup_init": True, "scale_parameter": False, "weight_decay": 0.1},
        lambda p: Adafactor(p, lr=None, warmup_init=True, scale_parameter=False, weight_decay=0.1),
    )
    run(
        "adafactor_rate",
        {"type": "adafactor", "learning_rate": 1e-2, "beta1": 0.9, "clip_threshold": 0.7, "weight_decay": 0.1},
        lambda p: Adafactor(
            p, lr=1e-2, relative_step=False, scale_parameter=False, beta1=0.9, clip_threshold=0.7, weight_decay=0.1
        ),
        rate=1e-2,
    )
    run(
        "adafactor_scaled",
        {"type": "adafactor", "learning_rate": 1e-1, "scale_parameter": True, "decay_rate": -0.6, "eps": [1e-20, 1e-2]},
        lambda p: Adafactor(p, lr=1e-1, relative_step=False, scale_parameter=True, decay_rate=-0.6, eps=(1e-20, 1e-2)),
        rate=1e-1, warmup=5,
    )
    run(
        "came", {"type": "came", "weight_decay": 0.1},
        lambda p: CAME(p, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.999, 0.9999), eps=(1e-30, 1e-16)), rate=1e-3,
    )


def estimating():
    fast = dict(d0=1e-3)

    run("prodigy", {"type": "prodigy", "d0": 1e-3}, lambda p: Prodigy(p, **fast), rate=1.0)
    run(
        "prodigy_options",
        {
            "type": "prodigy", "weight_decay": 0.1, "use_bias_correction": True, "safeguard_warmup": True, "d_coef": 0.8,
            "growth_rate": 1.5, "beta3": 0.95, "slice_p": 3, "d0": 1e-2,
        },
        lambda p: Prodigy(
            p, weight_decay=0.1, use_bias_correction=True, safeguard_warmup=True, d_coef=0.8, growth_rate=1.5, beta3=0.95,
            slice_p=3, d0=1e-2,
        ),
        rate=1.0, warmup=5,
    )
    run(
        "prodigy_coupled",
        {"type": "prodigy", "weight_decay": 0.1, "decouple": False, "betas": [0.0, 0.99], "d0": 1e-3},
        lambda p: Prodigy(p, weight_decay=0.1, decouple=False, betas=(0.0, 0.99), **fast),
        rate=0.5,
    )
    run("dadapt_adam", {"type": "dadapt_adam", "growth_rate": 1.4}, lambda p: DAdaptAdam(p, growth_rate=1.4), rate=1.0)
    run(
        "dadapt_adam_options",
        {"type": "dadapt_adam", "weight_decay": 0.1, "decouple": True, "use_bias_correction": True, "growth_rate": 1.2, "d0": 1e-3},
        lambda p: DAdaptAdam(p, weight_decay=0.1, decouple=True, use_bias_correction=True, growth_rate=1.2, **fast),
        rate=1.0, warmup=5,
    )
    run("dadapt_adam_coupled", {"type": "dadapt_adam", "weight_decay": 0.01, "growth_rate": 1.3}, lambda p: DAdaptAdam(p, weight_decay=0.01, growth_rate=1.3), rate=1.0)
    run(
        "dadapt_preprint", {"type": "dadapt_adam_preprint", "growth_rate": 1.25},
        lambda p: DAdaptAdamPreprint(p, growth_rate=1.25), rate=1.0,
    )
    run(
        "dadapt_preprint_decay",
        {"type": "dadapt_adam_preprint", "weight_decay": 0.1, "decouple": True, "d0": 1e-3, "betas": [0.9, 0.9]},
        lambda p: DAdaptAdamPreprint(p, weight_decay=0.1, decouple=True, betas=(0.9, 0.9), **fast),
        rate=1.0, warmup=5,
    )
    run(
        "dadapt_lion", {"type": "dadapt_lion", "weight_decay": 0.1, "d0": 1e-2},
        lambda p: DAdaptLion(p, weight_decay=0.1, d0=1e-2), rate=1.0, warmup=5,
    )
    run(
        "dadapt_sgd", {"type": "dadapt_sgd", "momentum": 0.9, "d0": 1e-2},
        lambda p: DAdaptSGD(p, momentum=0.9, d0=1e-2), rate=1.0,
    )
    run(
        "dadapt_sgd_decay", {"type": "dadapt_sgd", "weight_decay": 0.1, "d0": 1e-3, "growth_rate": 1.3},
        lambda p: DAdaptSGD(p, weight_decay=0.1, growth_rate=1.3, **fast), rate=0.5,
    )
    run("dadapt_adagrad", {"type": "dadapt_adagrad", "d0": 1e-2}, lambda p: DAdaptAdaGrad(p, d0=1e-2), rate=1.0)
    run(
        "dadapt_adagrad_momentum", {"type": "dadapt_adagrad", "momentum": 0.9, "weight_decay": 0.1, "d0": 1e-3, "growth_rate": 1.3},
        lambda p: DAdaptAdaGrad(p, momentum=0.9, weight_decay=0.1, growth_rate=1.3, **fast), rate=1.0,
    )
    for name, make in (("dadapt_adan", DAdaptAdan), ("dadapt_adan_ip", DAdaptAdanIP)):
        run(name, {"type": name, "growth_rate": 1.3}, lambda p: make(p, growth_rate=1.3), rate=1.0)
        run(
            f"{name}_options",
            {"type": name, "betas": [0.9, 0.8, 0.95], "weight_decay": 0.1, "no_prox": True, "growth_rate": 1.2, "d0": 1e-3},
            lambda p: make(p, betas=(0.9, 0.8, 0.95), weight_decay=0.1, no_prox=True, growth_rate=1.2, **fast),
            rate=0.5, warmup=5,
        )


def averages(optimizer, parameters, keep):
    optimizer.eval()
    for name, p in parameters.items():
        keep(f"{name}.average", p.detach().clone())


def schedule_free():
    run("free_adamw", {"type": "schedule_free_adamw"}, lambda p: AdamWScheduleFree(p, foreach=False), rate=2.5e-3, after=averages)
    run(
        "free_adamw_options",
        {"type": "schedule_free_adamw", "betas": [0.8, 0.99], "weight_decay": 0.1, "warmup_steps": 7, "r": 0.5, "weight_lr_power": 1.0},
        lambda p: AdamWScheduleFree(
            p, betas=(0.8, 0.99), weight_decay=0.1, warmup_steps=7, r=0.5, weight_lr_power=1.0, foreach=False
        ),
        rate=1e-2, after=averages,
    )
    run(
        "free_radam", {"type": "schedule_free_radam", "weight_decay": 0.1},
        lambda p: RAdamScheduleFree(p, weight_decay=0.1, foreach=False), rate=1e-2, after=averages,
    )
    run(
        "free_sgd", {"type": "schedule_free_sgd", "weight_decay": 0.1, "warmup_steps": 7},
        lambda p: SGDScheduleFree(p, lr=0.1, weight_decay=0.1, warmup_steps=7, foreach=False), rate=0.1, after=averages,
    )


def packed(optimizer, parameters, keep):
    for name, p in parameters.items():
        state = optimizer.state[p]
        for ours, theirs in [("m", "1"), ("v", "2")]:
            if f"state{theirs}" in state and state[f"state{theirs}"] is not None:
                keep(f"{name}.{ours}", state[f"state{theirs}"].clone())
                if f"absmax{theirs}" in state:
                    keep(f"{name}.{ours}_absmax", state[f"absmax{theirs}"].clone())


def nearest(x, m, blocksize):
    """Codes and absmax of the flat tensor's blocks."""
    flat = x.flatten()
    absmax = torch.stack([block.abs().max() for block in flat.split(blocksize)])
    scaled = flat / absmax.repeat_interleave(blocksize)[: flat.numel()]
    return torch.bucketize(scaled, (m[1:] + m[:-1]) / 2).to(torch.uint8).reshape(x.shape), absmax


def store_nearest(x, m, absmax_out, codes_out, blocksize):
    codes, absmax = nearest(x, m, blocksize)
    codes_out.copy_(codes)
    absmax_out.copy_(absmax)


class Cuda8bit(torch.optim.Optimizer):
    """What the CUDA kernels share. Blocks of 256; fewer than 4096 elements stay in float32."""

    def __init__(self, params, weight_decay):
        super().__init__(params, dict(lr=1e-3, weight_decay=weight_decay))
        self.maps = {"1": bnb.create_dynamic_map(signed=True), "2": bnb.create_dynamic_map(signed=False)}

    def load(self, p, which):
        state, m = self.state[p], self.maps[which]
        if f"absmax{which}" not in state:
            return state.get(f"state{which}", torch.zeros_like(p))
        absmax = state[f"absmax{which}"].repeat_interleave(256)[: p.numel()]
        return (m[state[f"state{which}"].long().flatten()] * absmax).reshape(p.shape)

    def store(self, p, which, x):
        state, m = self.state[p], self.maps[which]
        if p.numel() < 4096:
            state[f"state{which}"] = x
            return
        code, absmax = nearest(x, m, 256)
        if which == "1":
            # A negative value nearest to 0 takes the code below.
            code = torch.where((m[code.long()] == 0) & torch.signbit(x), code - 1, code)
        state[f"state{which}"], state[f"absmax{which}"] = code, absmax

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                k = self.state[p]["k"] = self.state[p].get("k", 0) + 1
                self.update(p, k, group["lr"], group["weight_decay"])


class CudaAdamW8bit(Cuda8bit):
    def update(self, p, k, lr, decay):
        m = self.load(p, "1") * 0.9 + (1 - 0.9) * p.grad
        v = self.load(p, "2") * 0.999 + (1 - 0.999) * p.grad * p.grad
        root = math.sqrt(1 - 0.999**k)
        p.add_(m / (v.sqrt() + 1e-8 * root), alpha=-lr * root / (1 - 0.9**k))
        p.mul_(1 - lr * decay)
        self.store(p, "1", m)
        self.store(p, "2", v)


class CudaLion8bit(Cuda8bit):
    def update(self, p, k, lr, decay):
        m = self.load(p, "1")
        p.mul_(1 - lr * decay)
        p.add_(torch.sign(m * 0.9 + (1 - 0.9) * p.grad), alpha=-lr)
        self.store(p, "1", m * 0.99 + (1 - 0.99) * p.grad)


def eight_bit():
    VALUES["map.signed"] = bnb.create_dynamic_map(signed=True)
    VALUES["map.unsigned"] = bnb.create_dynamic_map(signed=False)
    n = 700
    x = torch.from_numpy(uniform(991, 0, n) * np.float32(3.7) * uniform(992, 0, n) ** 3)
    for name, signed in [("signed", True), ("unsigned", False)]:
        value = x if signed else x.abs()
        code, state = bnb.quantize_blockwise(value, code=VALUES[f"map.{name}"], blocksize=256)
        VALUES.update({f"quant.{name}.value": value, f"quant.{name}.code": code, f"quant.{name}.absmax": state.absmax})
        VALUES[f"quant.{name}.back"] = bnb.dequantize_blockwise(code, absmax=state.absmax, code=VALUES[f"map.{name}"], blocksize=256)
    bnb_cpu._quant_blockwise_fp32_direct = store_nearest
    run(
        "adamw8", {"type": "adamw_8bit", "weight_decay": 0.0},
        lambda p: bitsandbytes.optim.AdamW8bit(p, weight_decay=0.0), WIDE, rate=1e-3, after=packed,
    )
    run(
        "lion8", {"type": "lion_8bit", "weight_decay": 0.1},
        lambda p: bitsandbytes.optim.Lion8bit(p, weight_decay=0.1, betas=(0.9, 0.99)), WIDE, rate=1e-3, after=packed,
    )
    run("adamw8_cuda", {"type": "adamw_8bit", "weight_decay": 0.1}, lambda p: CudaAdamW8bit(p, 0.1), WIDE, rate=1e-3, after=packed)
    run("lion8_cuda", {"type": "lion_8bit", "weight_decay": 0.1}, lambda p: CudaLion8bit(p, 0.1), WIDE, rate=1e-3, after=packed)


def main():
    classic()
    factored()
    estimating()
    schedule_free()
    eight_bit()
    save_json(OUT / "optimizers.json", CASES)
    save("optimizers.safetensors", VALUES)
    for name in sorted(k for k in VALUES if k.endswith(".d")):
        print(f"    {name} = {float(VALUES[name]):.3e}")


if __name__ == "__main__":
    main()
