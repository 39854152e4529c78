"""Short training runs of the adapters beyond plain LoRA on the tiny SD1-shaped U-Net, convolutions included.

LoHa, LoKr, DoRA, (IA)^3, GLoRA, Diag-OFT, BOFT and norms are lycoris-lora's modules. OFT, DyLoRA and LoRA-FA have no package here; their formulas are written
out below, with the equations in their docstrings. Steps, optimizer and clipping are those of make_lora_trajectory.
"""

import os

from common import FIXTURES, gen, save_tensors, spread, tiny_unet
from make_keys import UNET_CONV_TARGETS, discover
from make_lora_trajectory import ADAMW, STEPS, batch, schedule

import torch
from safetensors.torch import load_file

# lycoris compiles kernels where it can; the plain torch path is the reference.
os.environ["LYCORIS_KERNEL_BACKEND"] = "torch"

OUT = FIXTURES / "lycoris"
RANK, ALPHA, RATE = 2, 1.5, 1e-3


class Wrapped:
    """A layer whose forward is replaced; its own parameters are called as in files."""

    def __init__(self, name, leaf):
        self.name, self.leaf = name, leaf
        self.forward = leaf.forward
        leaf.forward = self.call
        self.weight = leaf.weight.detach()
        self.width = self.weight[0].numel()
        self.out = self.weight.shape[0]

    def apply(self, x, weight, bias=None):
        weight = weight.reshape(self.weight.shape)
        if weight.dim() == 2:
            return torch.nn.functional.linear(x, weight, bias)
        return torch.nn.functional.conv2d(x, weight, bias, self.leaf.stride, self.leaf.padding)

    def state(self):
        return {**self.parameters(), "alpha": torch.tensor(self.alpha)}


class Pair(Wrapped):
    """LoRA-FA: y = Wx + alpha/r * U(Dx), where only U learns."""

    alpha = ALPHA

    def make(self, g):
        self.down = torch.randn(RANK, self.width, generator=g) * 2 * self.width**-0.5
        self.up = torch.nn.Parameter(torch.randn(self.out, RANK, generator=g) * 0.06)

    def call(self, x):
        return self.forward(x) + self.apply(x, ALPHA / RANK * self.up @ self.down)

    def parameters(self):
        kernel = self.weight.shape[2:]
        down = self.down.reshape(RANK, self.weight.shape[1], *kernel)
        return {"lora_down.weight": down, "lora_up.weight": self.up.reshape(self.out, RANK, *[1 for _ in kernel])}

    def trained(self):
        return {"lora_up.weight": self.up}


class Nested(Wrapped):
    """DyLoRA of unit 1: with slice j drawn, y = Wx + alpha/(j+1) * U[:, :j+1] D[:j+1] x, gradient in slice j alone."""

    alpha = ALPHA
    rank = 3
    drawn = 0

    def make(self, g):
        n = self.rank
        self.down = [torch.nn.Parameter(torch.randn(1, self.width, generator=g) * 2 * self.width**-0.5) for _ in range(n)]
        self.up = [torch.nn.Parameter(torch.randn(self.out, 1, generator=g) * 0.06) for _ in range(n)]

    def call(self, x):
        j = Nested.drawn
        take = lambda list, axis: torch.cat([t if i == j else t.detach() for i, t in enumerate(list[: j + 1])], axis)
        return self.forward(x) + self.apply(x, ALPHA / (j + 1) * take(self.up, 1) @ take(self.down, 0))

    def parameters(self):
        kernel = self.weight.shape[2:]
        down = torch.cat(self.down, 0).reshape(self.rank, self.weight.shape[1], *kernel)
        return {"lora_down.weight": down, "lora_up.weight": torch.cat(self.up, 1).reshape(self.out, self.rank, *[1 for _ in kernel])}

    def trained(self):
        return {f"{kind}.{i}": t for kind, list in (("lora_A", self.down), ("lora_B", self.up)) for i, t in enumerate(list)}


class Rotation(Wrapped):
    """OFT: W' = R^T W with R = (I + Q)(I - Q)^-1 by blocks of rows, Q = S - S^T shortened to norm alpha * out."""

    alpha = 0.02

    def make(self, g):
        n = self.out // RANK
        self.s = torch.nn.Parameter(torch.randn(RANK, n, n, generator=g) * 0.03)

    def call(self, x):
        q = self.s - self.s.transpose(1, 2)
        norm = q.norm()
        q = q * ((norm.clamp(max=self.alpha * self.out) + 1e-8) / (norm + 1e-8))
        unit = torch.eye(q.shape[1])
        r = (unit + q) @ torch.linalg.inv(unit - q)
        weight = r.transpose(1, 2) @ self.weight.reshape(RANK, self.out // RANK, self.width)
        return self.apply(x, weight, self.leaf.bias)

    def parameters(self):
        return {"oft_blocks": self.s}

    trained = parameters


class Lycoris:
    """A module of lycoris-lora on a layer."""

    def __init__(self, make, options):
        self.make_module, self.options = make, options

    def __call__(self, name, leaf):
        self = Lycoris(self.make_module, self.options)
        self.name = name
        self.module = self.make_module(name, leaf, lora_dim=self.options.get("rank", RANK), alpha=ALPHA, **{k: v for k, v in self.options.items() if k != "rank"})
        self.module.apply_to()
        self.module.train()
        return self

    def make(self, g):
        """Nothing is left at zero; a magnitude stays that of the base, a little off."""
        with torch.no_grad():
            for key, parameter in sorted(self.module.named_parameters()):
                noise = torch.randn(parameter.shape, generator=g)
                if key in ("dora_scale", "rescale"):
                    parameter.mul_(1 + 0.05 * noise)
                elif key == "scalar":
                    # Files hold the product: a factor of 1 is the same before and behind them.
                    parameter.fill_(1.0)
                elif key == "oft_blocks":
                    parameter.copy_(noise * 0.03)
                elif key == "weight":
                    parameter.copy_(noise * 0.1)
                elif key.split(".")[0] in ("a1", "a2", "b1", "b2"):
                    parameter.copy_(noise * 0.25 * parameter[0].numel() ** -0.25)
                elif key.startswith("lora_down"):
                    parameter.copy_(noise * 2 * parameter[0].numel() ** -0.5)
                elif key.startswith("lora_up"):
                    parameter.copy_(noise * 0.06)
                else:
                    parameter.copy_(noise * (0.3 if key in ("lokr_w2", "lokr_w2_b", "hada_w2_a") else 0.5) * parameter.shape[-1] ** -0.25)

    def state(self):
        state = self.module.state_dict()
        if self.options.get("rs_lora") and hasattr(self.module, "a1"):
            # GLoRA's files have the plain alpha, which a reader would divide by the rank: here the one that is right for it.
            state["alpha"] = torch.tensor(self.module.scale * self.module.lora_dim)
        return {key: value.detach().float() for key, value in state.items()}

    def trained(self):
        return dict(self.module.named_parameters())


def kinds():
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule
    from lycoris.modules.boft import ButterflyOFTModule
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.glora import GLoRAModule
    from lycoris.modules.ia3 import IA3Module

    # The constraint holds from the first step on: where it begins to hold, gradients have a jump.
    more = {"rs_lora": True, "use_scalar": True}
    return {
        "loha": Lycoris(LohaModule, {}),
        "loha_tucker": Lycoris(LohaModule, {"use_tucker": True}),
        "lokr": Lycoris(LokrModule, {}),
        "lokr_tucker": Lycoris(LokrModule, {"use_tucker": True}),
        "lokr_both": Lycoris(LokrModule, {"rank": 1, "decompose_both": True, "factor": 3}),
        "dora": Lycoris(LoConModule, {"weight_decompose": True}),
        "locon_more": Lycoris(LoConModule, more),
        "loha_more": Lycoris(LohaModule, more),
        # Of two whole factors LyCORIS trains another scale with rs_lora than it reads again.
        "lokr_more": Lycoris(LokrModule, {"use_scalar": True}),
        "ia3": Lycoris(IA3Module, {}),
        "ia3_inputs": Lycoris(IA3Module, {"train_on_input": True}),
        "glora": Lycoris(GLoRAModule, more),
        "diag_oft": Lycoris(DiagOFTModule, {"rank": 4}),
        "diag_oft_rescaled": Lycoris(DiagOFTModule, {"rank": 4, "rescaled": True, "constraint": 0.002}),
        "boft": Lycoris(ButterflyOFTModule, {"rank": 10, "rescaled": True, "constraint": 0.002}),
        "oft": Rotation,
        "lora_fa": Pair,
        "dylora": Nested,
    }


def run(kind, make, replay):
    unet = tiny_unet()
    unet.requires_grad_(False)
    prefix = "oft_unet" if kind == "oft" else "lora_unet"
    found = discover(unet, UNET_CONV_TARGETS, prefix)
    assert len(found) == 278
    g = gen(701)
    layers = []
    for name, (_, leaf) in sorted(found.items()):
        layers.append(make(name, leaf))
        layers[-1].make(g)

    def state():
        return {f"{layer.name}.{key}": value.detach().clone() for layer in layers for key, value in layer.state().items()}

    named = {f"{layer.name}.{key}": value for layer in layers for key, value in layer.trained().items()}
    init, scheduler = state(), schedule()
    optimizer = torch.optim.AdamW(list(named.values()), lr=RATE, **ADAMW)
    losses, norms, first = [], [], {}
    slices = torch.randint(0, Nested.rank, (STEPS,), generator=gen(702))
    for k in range(STEPS):
        Nested.drawn = int(slices[k])
        data = batch(replay, k)
        noisy = scheduler.add_noise(data["latents"], data["noise"], data["timesteps"])
        prediction = unet(noisy, data["timesteps"], data["context"]).sample
        loss = torch.nn.functional.mse_loss(prediction, data["noise"])
        loss.backward()
        if k == 0:
            first["out"] = prediction.detach()
            keys = [key for key in sorted(named) if named[key].grad is not None]
            first |= {"grad0." + key: named[key].grad.clone() for key in spread(keys, 24)}
        norms.append(torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0).detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    final = state()
    out = {"losses": torch.stack(losses), "grad_norms": torch.stack(norms), **first}
    if kind == "dylora":
        out["slices"] = slices
    out |= {"init." + key: value for key, value in init.items()}
    out |= {"final." + key: final[key] for key in spread(sorted(final), 48)}
    save_tensors(OUT / f"{kind}.safetensors", out)
    print("   ", kind, [round(float(x), 4) for x in losses[::6]], [round(float(x), 2) for x in norms[::6]])


def full(replay):
    """FullModule and NormModule: whole weights, biases and norms learn, from the base on.

    They hold the weight itself, so that their weight decay would pull it to zero; here there is none, and what is
    compared is the difference that they save.
    """
    from lycoris.modules.full import FullModule
    from lycoris.modules.norms import NormModule

    unet = tiny_unet()
    unet.requires_grad_(False)
    layers = {name: FullModule(name, leaf) for name, (_, leaf) in discover(unet, UNET_CONV_TARGETS, "lora_unet").items()}
    for path, module in unet.named_modules():
        inside = "attentions." in path or "resnets." in path
        if inside and isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
            name = "lora_unet_" + path.replace(".", "_")
            layers[name] = NormModule(name, module)
    for layer in layers.values():
        layer.apply_to()
        layer.train()
    named = {f"{name}.{key}": value for name, layer in sorted(layers.items()) for key, value in layer.named_parameters()}
    scheduler = schedule()
    optimizer = torch.optim.AdamW(list(named.values()), lr=RATE, betas=ADAMW["betas"], eps=ADAMW["eps"], weight_decay=0.0)
    losses, norms = [], []
    for k in range(STEPS):
        data = batch(replay, k)
        noisy = scheduler.add_noise(data["latents"], data["noise"], data["timesteps"])
        prediction = unet(noisy, data["timesteps"], data["context"]).sample
        loss = torch.nn.functional.mse_loss(prediction, data["noise"])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0).detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    state = {}
    for name, layer in sorted(layers.items()):
        own = layer.custom_state_dict() if isinstance(layer, FullModule) else dict(layer.named_parameters())
        state |= {f"{name}.{key}": value.detach().float() for key, value in own.items()}
    out = {"losses": torch.stack(losses), "grad_norms": torch.stack(norms), "count": torch.tensor([len(state)])}
    out |= {"final." + key: state[key] for key in spread(sorted(state), 64)}
    save_tensors(OUT / "full.safetensors", out)
    print("    full", len(state), [round(float(x), 4) for x in losses[::6]], [round(float(x), 2) for x in norms[::6]])


def main():
    replay = load_file(FIXTURES / "lora_trajectory" / "replay.safetensors")
    noisy = schedule().add_noise(replay["latents"], replay["noise"], replay["timesteps"])
    save_tensors(OUT / "noisy.safetensors", {"noisy": noisy})
    for kind, make in kinds().items():
        run(kind, make, replay)
    full(replay)


if __name__ == "__main__":
    main()
