"""Short training runs on the tiny SD1-shaped U-Net: a LoRA run (peft), a full fine-tune, loss variants.

Step k uses rows 2k mod 8 and 2k+1 mod 8 of the replay file. Noised latents and targets
come from diffusers' DDPMScheduler, the loss is a mean over everything, gradients are
clipped to global norm 1 and the optimizer is torch's AdamW.
"""

from common import CONTEXT, FIXTURES, gen, randn, save_tensors, spread, tiny_unet
from make_keys import UNET_TARGETS, discover

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, get_peft_model

OUT = FIXTURES / "lora_trajectory"
RANK, ALPHA = 4, 2.0
STEPS, FULL_STEPS, VARIANT_STEPS = 20, 5, 3
ADAMW = dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)


def schedule(**kwargs):
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, **kwargs)


def make_replay():
    replay = {
        "latents": randn(8, 4, 16, 16, seed=501),
        "noise": randn(8, 4, 16, 16, seed=502),
        "timesteps": torch.tensor([3, 871, 120, 555, 999, 60, 333, 742], dtype=torch.int64),
        "context": randn(8, 77, CONTEXT, seed=503),
    }
    save_tensors(OUT / "replay.safetensors", replay)
    return replay


def batch(replay, k):
    rows = [(2 * k) % 8, (2 * k + 1) % 8]
    return {name: value[rows] for name, value in replay.items()}


def forward(model, data, scheduler, v_prediction=False):
    """Prediction and target of one batch."""
    noisy = scheduler.add_noise(data["latents"], data["noise"], data["timesteps"])
    prediction = model(noisy, data["timesteps"], data["context"]).sample
    if v_prediction:
        return prediction, scheduler.get_velocity(data["latents"], data["noise"], data["timesteps"])
    return prediction, data["noise"]


def train(model, parameters, replay, steps, lr, each=None):
    scheduler = schedule()
    optimizer = torch.optim.AdamW(parameters, lr=lr, **ADAMW)
    losses, norms = [], []
    for k in range(steps):
        prediction, target = forward(model, batch(replay, k), scheduler)
        loss = torch.nn.functional.mse_loss(prediction, target)
        loss.backward()
        if each:
            each(k)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms)


class Lora:
    """peft's LoRA layers on the default targets, addressed by their kohya names."""

    def __init__(self, unet, rename=str):
        found = discover(unet, UNET_TARGETS, "lora_unet", rename)
        self.modules = {name: path for name, (path, _) in found.items()}
        self.model = get_peft_model(
            unet,
            LoraConfig(
                r=RANK,
                lora_alpha=ALPHA,
                lora_dropout=0.0,
                bias="none",
                target_modules=list(self.modules.values()),
            ),
        )
        layers = dict(self.model.base_model.model.named_modules())
        self.layers = {name: layers[path] for name, path in self.modules.items()}
        for layer in self.layers.values():
            assert layer.scaling["default"] == ALPHA / RANK

    def factors(self, name):
        layer = self.layers[name]
        return layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def named_parameters(self):
        out = {}
        for name in self.layers:
            out[f"{name}.lora_down.weight"], out[f"{name}.lora_up.weight"] = self.factors(name)
        return out

    def seed(self, seed):
        """Large down, small but non-zero up.

        A fresh adapter has a zero up factor and a smaller down; with these values the
        first step already shows in the output, and the gradient norm starts above the
        clipping threshold and falls below it during the run.
        """
        g = gen(seed)
        with torch.no_grad():
            for name in sorted(self.layers):
                down, up = self.factors(name)
                bound = down[0].numel() ** -0.5
                down.copy_((torch.rand(down.shape, generator=g) * 2 - 1) * 8 * bound)
                up.copy_(torch.randn(up.shape, generator=g) * 0.06)

    def state_dict(self):
        out = {k: v.detach().clone() for k, v in self.named_parameters().items()}
        for name in self.layers:
            out[f"{name}.alpha"] = torch.tensor(ALPHA)
        return out


def merged(state, unet, rename=str):
    """A plain U-Net with the LoRA added to its weights: W + alpha/rank * up @ down."""
    found = discover(unet, UNET_TARGETS, "lora_unet", rename)
    with torch.no_grad():
        for name, (_, leaf) in found.items():
            down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
            scale = float(state[f"{name}.alpha"]) / down.shape[0]
            leaf.weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(leaf.weight.shape)
    return unet


def lora_run(replay):
    lora = Lora(tiny_unet())
    lora.seed(504)
    # The module walk of `discover` and peft must agree on what is trained.
    trained = {id(p) for p in lora.model.parameters() if p.requires_grad}
    named = lora.named_parameters()
    assert len(named) == 2 * 192 and trained == {id(p) for p in named.values()}

    init = lora.state_dict()
    save_tensors(OUT / "init.safetensors", init)
    data = batch(replay, 0)
    sample = schedule().add_noise(data["latents"], data["noise"], data["timesteps"])

    def compare(state):
        with torch.no_grad():
            ours = lora.model(sample, data["timesteps"], data["context"]).sample
            plain = merged(state, tiny_unet())(sample, data["timesteps"], data["context"]).sample
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=2e-5)
        return ours

    compare(init)
    first = {}

    def keep(k):
        if k == 0:
            for name in spread(sorted(named), 24):
                first["grad0." + name] = named[name].grad.clone()

    losses, norms = train(lora.model, list(named.values()), replay, STEPS, 1e-3, keep)
    final = lora.state_dict()
    save_tensors(OUT / "final.safetensors", final)
    with torch.no_grad():
        base = tiny_unet()(sample, data["timesteps"], data["context"]).sample
    save_tensors(
        OUT / "io.safetensors",
        {
            "sample": sample,
            "timesteps": data["timesteps"],
            "context": data["context"],
            "out": base,
            "out_with_lora": compare(final),
        },
    )
    return {"losses": losses, "grad_norms": norms, **first}


def full_run(replay):
    unet = tiny_unet()
    named = dict(unet.named_parameters())
    losses, norms = train(unet, list(named.values()), replay, FULL_STEPS, 1e-4)
    save_tensors(OUT / "full_final.safetensors", {k: named[k] for k in spread(sorted(named), 24)})
    return {"losses_full": losses, "grad_norms_full": norms}


def variants(replay):
    """Per-step losses with the untrained base weights, one array of 3 per variant."""
    unet, scheduler = tiny_unet(), schedule()
    acp = scheduler.alphas_cumprod

    def huber_c(t):
        sigma = ((1 - acp[t]) / acp[t]) ** 0.5
        return ((1 - 0.1) / (1 + sigma) ** 2 + 0.1)[:, None, None, None]

    def snr(t):
        return acp[t] / (1 - acp[t])

    def l2(p, x, t):
        return ((p - x) ** 2).mean((1, 2, 3))

    def pseudo_huber(scale):
        def loss(p, x, t):
            c = huber_c(t)
            factor = 2 * c if scale else 2
            return (factor * (((p - x) ** 2 + c**2) ** 0.5 - c)).mean((1, 2, 3))

        return loss

    # name: (v-prediction, per-sample loss, per-sample weight)
    table = {
        "losses_eps": (False, l2, None),
        "losses_v": (True, l2, None),
        "losses_min_snr_eps": (False, l2, lambda t: snr(t).clamp(max=5) / snr(t)),
        "losses_min_snr_v": (True, l2, lambda t: snr(t).clamp(max=5) / (snr(t) + 1)),
        "losses_debiased_eps": (False, l2, lambda t: 1 / snr(t).clamp(max=1000).sqrt()),
        "losses_debiased_v": (True, l2, lambda t: 1 / (snr(t).clamp(max=1000) + 1)),
        "losses_scale_v": (True, l2, lambda t: snr(t).clamp(max=1000) / (snr(t).clamp(max=1000) + 1)),
        "losses_l1": (False, lambda p, x, t: (p - x).abs().mean((1, 2, 3)), None),
        "losses_huber_snr": (False, pseudo_huber(True), None),
        "losses_smooth_l1_snr": (False, pseudo_huber(False), None),
    }
    out = {}
    with torch.no_grad():
        for name, (v_prediction, loss, weight) in table.items():
            values = []
            for k in range(VARIANT_STEPS):
                data = batch(replay, k)
                t = data["timesteps"]
                per_sample = loss(*forward(unet, data, scheduler, v_prediction), t)
                values.append((per_sample * (weight(t) if weight else 1)).mean())
            out[name] = torch.stack(values)
    return out


def main():
    replay = make_replay()
    losses = {**lora_run(replay), **full_run(replay), **variants(replay)}
    save_tensors(OUT / "losses.safetensors", losses)
    for name, value in losses.items():
        if not name.startswith("grad0."):
            print("   ", name, [round(x, 5) for x in value.tolist()])


if __name__ == "__main__":
    main()
