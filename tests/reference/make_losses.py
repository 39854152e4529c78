"""Learning-rate schedules, training noise, weights, losses, flow matching and preview samplers.

Everything random is drawn here and stored, so that `nodes/train` computes on the same draws. Where a library has the
formula (transformers and diffusers schedules, diffusers samplers and weightings, torch interpolation) it is called;
noise offset, pyramid noise, SNR weights and Huber losses are written out below from their definitions.
"""

import math

from common import FIXTURES, gen, randn, save_json

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers import optimization as diffusers_optimization
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from safetensors.torch import save_file
from transformers import get_scheduler

OUT = FIXTURES / "train"
SCALED_LINEAR = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def save(name, tensors):
    """As `save_tensors`, with float64 and uint8 too."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / name
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    for key, tensor in tensors.items():
        assert tensor.dtype == torch.uint8 or torch.isfinite(tensor).all(), key
    save_file(tensors, str(path), metadata={"format": "pt"})
    print(f"  train/{name}: {len(tensors)} tensors, {path.stat().st_size / 1000:.0f} kB")


def lr_schedules():
    """λ(t) for t = 0..N, three lengths; `config` is the schedule in the document's words."""
    base = 1e-4
    cases, values = [], {}

    def add(config, name, warmup, total, library=get_scheduler, **specific):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
        scheduler = library(name, optimizer, num_warmup_steps=warmup, num_training_steps=total, **specific)
        factor = scheduler.lr_lambdas[0]
        key = f"{len(cases):02d}"
        cases.append(dict(key=key, name=name, total=total, config=config))
        values[key] = torch.tensor([float(factor(t)) for t in range(total + 1)], dtype=torch.float64)

    for total in (10, 137, 400):
        w, ratio = int(0.1 * total), {"ratio": 0.1}
        add({"type": "constant"}, "constant", 0, total)
        add({"type": "constant", "warmup": ratio}, "constant_with_warmup", w, total)
        add({"type": "linear", "warmup": ratio}, "linear", w, total)
        add({"type": "linear"}, "linear", 0, total)
        add({"type": "cosine", "warmup": {"steps": 3}}, "cosine", 3, total)
        add(
            {"type": "cosine_with_restarts", "warmup": ratio, "cycles": 3},
            "cosine_with_restarts", w, total, scheduler_specific_kwargs={"num_cycles": 3},
        )
        # The library's end is absolute, 1e-7 on a rate of 1e-4.
        add(
            {"type": "polynomial", "warmup": ratio, "power": 2.0, "end_ratio": 1e-3},
            "polynomial", w, total, scheduler_specific_kwargs={"power": 2.0},
        )
        add({"type": "inverse_sqrt", "warmup": {"steps": 4}}, "inverse_sqrt", 4, total)
        add({"type": "inverse_sqrt"}, "inverse_sqrt", 0, total)
        add(
            {"type": "inverse_sqrt", "warmup": {"steps": 4}, "timescale": 20},
            "inverse_sqrt", 4, total, scheduler_specific_kwargs={"timescale": 20},
        )
        # The library counts whole cosines.
        for cycles in (1, 3):
            add(
                {"type": "cosine_with_min_lr", "warmup": ratio, "min_ratio": 0.1, "cycles": cycles},
                "cosine_with_min_lr", w, total,
                scheduler_specific_kwargs={"min_lr_rate": 0.1, "num_cycles": cycles / 2},
            )
        decay = int(0.3 * total)
        for warmup_type, decay_type, cycles in [("linear", "cosine", 1), ("cosine", "1-sqrt", 1), ("1-sqrt", "linear", 1), ("linear", "cosine", 3)]:
            add(
                {
                    "type": "warmup_stable_decay", "warmup": ratio, "decay": {"ratio": 0.3}, "min_ratio": 0.05,
                    "warmup_type": warmup_type, "decay_type": decay_type, "cycles": cycles,
                },
                "warmup_stable_decay", w, total,
                scheduler_specific_kwargs=dict(
                    num_decay_steps=decay, min_lr_ratio=0.05, warmup_type=warmup_type, decay_type=decay_type, num_cycles=cycles / 2
                ),
            )
        add(
            {
                "type": "piecewise_constant", "rest": 0.005,
                "pieces": [{"factor": 1.0, "until": {"steps": 3}}, {"factor": 0.1, "until": {"steps": 8}}],
            },
            "piecewise_constant", 0, total,
            library=diffusers_optimization.get_scheduler, step_rules="1:3,0.1:8,0.005",
        )
    save_json(OUT / "lr_schedules.json", cases)
    save("lr_schedules.safetensors", values)


def snr_weights(snr, v):
    """Per-sample factors; S is capped at 1000 in all but min-SNR."""
    s = snr.clamp(max=1000)
    gamma = torch.full_like(snr, 5.0)
    out = {"min_snr_gamma": torch.minimum(snr, gamma) / (snr + 1 if v else snr)}
    out["debiased"] = 1 / (s + 1) if v else 1 / torch.sqrt(s)
    if v:
        out["scale_v"] = s / (s + 1)
    else:
        out["v_pred_like"] = 1 + 0.7 * (s + 1) / s
    return out


def ddpm():
    plain, zero = DDPMScheduler(**SCALED_LINEAR), DDPMScheduler(rescale_betas_zero_snr=True, **SCALED_LINEAR)
    out = {
        "betas": plain.betas, "alphas": plain.alphas_cumprod,
        "zero.betas": zero.betas, "zero.alphas": zero.alphas_cumprod,
    }
    t = torch.tensor([0, 1, 137, 500, 998, 999])
    x0, noise = randn(6, 4, 5, 3, seed=701), randn(6, 4, 5, 3, seed=702)
    out |= {"t": t, "x0": x0, "noise": noise}
    for name, scheduler in [("plain", plain), ("zero", zero)]:
        out[f"{name}.noisy"] = scheduler.add_noise(x0, noise, t)
        out[f"{name}.velocity"] = scheduler.get_velocity(x0, noise, t)
    snr = plain.alphas_cumprod / (1 - plain.alphas_cumprod)
    for v in (False, True):
        for key, value in snr_weights(snr[t], v).items():
            out[f"weight.{'v' if v else 'epsilon'}.{key}"] = value

    # Noise offset, one strength for the batch: 0.1 · u; adaptive by the channel's mean.
    xi, u = randn(6, 4, 1, 1, seed=703), 0.6
    strength = 0.1 * u
    out["offset.xi"] = xi
    out["offset.plain"] = noise + strength * xi
    adaptive = (strength + 0.5 * x0.mean(dim=(2, 3), keepdim=True).abs()).clamp(min=0)
    out["offset.adaptive"] = noise + adaptive * xi
    out["ip"] = noise + 0.1 * u * x0

    # Pyramid noise of one sample.
    c, h, w = 4, 24, 17
    base = randn(1, c, h, w, seed=704)
    ratios, discount = [2.9, 2.1, 3.3, 2.6, 2.05, 3.9], 0.4
    total = base.clone()
    # An offset comes first: the levels are added to it, and all is divided by the standard deviation.
    both = base + strength * xi[:1]
    for i, r in enumerate(ratios):
        hn, wn = max(1, int(h / r**i)), max(1, int(w / r**i))
        level = randn(1, c, hn, wn, seed=705 + i)
        out[f"pyramid.level{i}"] = level[0]
        enlarged = torch.nn.functional.interpolate(level, size=(h, w), mode="bilinear") * discount**i
        total, both = total + enlarged, both + enlarged
        if hn == 1 or wn == 1:
            break
    out |= {"pyramid.base": base[0], "pyramid.ratios": torch.tensor(ratios), "pyramid.out": (total / total.std())[0], "both.out": (both / both.std())[0]}
    save("ddpm.safetensors", out)


def losses():
    """Elementwise values and gradients by autograd; the gradient is that of the masked, weighted mean."""
    alphas = DDPMScheduler(**SCALED_LINEAR).alphas_cumprod
    t = torch.tensor([0, 137, 500, 999])
    prediction, target = randn(4, 3, 8, 6, seed=721), randn(4, 3, 8, 6, seed=722)
    target[:, :, 0, 0] = prediction[:, :, 0, 0]
    image_mask = torch.rand(1, 1, 29, 20, generator=gen(723))
    mask = torch.nn.functional.interpolate(image_mask, size=(8, 6), mode="area")
    prior = torch.tensor([1.0, 0.25, 1.0, 0.5])
    out = {
        "t": t, "prediction": prediction, "target": target, "image_mask": image_mask[0, 0], "mask": mask[0, 0], "prior": prior
    }
    sigma = ((1 - alphas[t]) / alphas[t]).sqrt()
    cs = {
        "constant": torch.full((4,), 0.1 * 1.5),
        "exponential": 1.5 * torch.exp(math.log(0.1) * t / 1000),
        "snr": (1 - 0.1) / (1 + sigma) ** 2 + 0.1,
    }
    out |= {f"c.{k}": v for k, v in cs.items()}
    for kind in ("l2", "l1", "huber", "smooth_l1"):
        for schedule in ["constant"] if kind in ("l2", "l1") else list(cs):
            p = prediction.clone().requires_grad_()
            e, c = p - target, cs[schedule].view(-1, 1, 1, 1)
            value = {
                "l2": lambda: e**2,
                "l1": lambda: e.abs(),
                "huber": lambda: 2 * c * (torch.sqrt(e**2 + c**2) - c),
                "smooth_l1": lambda: 2 * (torch.sqrt(e**2 + c**2) - c),
            }[kind]()
            each = (value * mask).mean(dim=(1, 2, 3))
            (each * prior).mean().backward()
            key = f"{kind}.{schedule}"
            out |= {f"{key}.value": value, f"{key}.each": each, f"{key}.grad": p.grad}
    save("losses.safetensors", out)


def flow():
    """σ of each sampling from its draws; densities and weights from diffusers."""
    n = 64
    normal, uniform = torch.randn(n, generator=gen(731)), torch.rand(n, generator=gen(732))
    out = {"normal": normal, "uniform": uniform}
    q = torch.sigmoid(1.3 * normal)

    def exponential(s, tokens):
        mu = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
        return math.exp(mu) / (math.exp(mu) + (1 / s - 1))

    out["sigmoid"] = q
    out["shift"] = 3.1 * q / (1 + 2.1 * q)
    out["flux_shift"] = exponential(q, 1536)
    out["nextdit_shift"] = exponential(uniform.clamp(min=1e-7), 1536)
    table = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    out["table"] = table.sigmas[:1000].clone()
    for scheme, draw in [("logit_normal", 731), ("mode", 732), ("uniform", 732)]:
        u = compute_density_for_timestep_sampling(
            scheme, n, logit_mean=0.2, logit_std=1.1, mode_scale=1.29, generator=gen(draw)
        )
        out[f"density.{scheme}"] = u
        out[f"sigma.{scheme}"] = table.sigmas[(u * 1000).long()]
        h = 2.5
        shifted = u * h / (1 + (h - 1) * u)
        out[f"discrete.{scheme}"] = (shifted * (900 - 100) + 100).long().float() / 1000
    sigmas = torch.linspace(0.001, 1, n)
    out["sigmas"] = sigmas
    for scheme in ("sigma_sqrt", "cosmap", "uniform"):
        out[f"weight.{scheme}"] = compute_loss_weighting_for_sd3(scheme, sigmas)
    save("flow.safetensors", out)


def network(x, t):
    """Stands for a model: smooth, and different at every time."""
    return 0.7 * x + 0.2 * (t / 1000) * torch.sin(x)


def run(scheduler, n, x, in_sigmas):
    scheduler.set_timesteps(n)
    x = x * scheduler.init_noise_sigma if in_sigmas else x
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), float(t)), t, x).prev_sample
    return x


def solvers():
    x = randn(48, seed=741)
    out = {"x": x}
    fresh = randn(30, 48, seed=742)
    out["fresh"] = fresh[:10]
    drawn = iter(())
    ancestral.randn_tensor = lambda *_, **__: next(drawn)
    for prediction in ("epsilon", "v_prediction"):
        common = dict(prediction_type=prediction, **SCALED_LINEAR)
        ddim = dict(clip_sample=False, set_alpha_to_one=True, steps_offset=0, **common)
        zero = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
        for n in (4, 10):
            drawn = iter(fresh)
            made = {
                "ddim": (DDIMScheduler(**ddim), False),
                "ddim_clipped": (DDIMScheduler(**{**ddim, "clip_sample": True}), False),
                "euler": (EulerDiscreteScheduler(**common), True),
                "euler_leading": (EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **common), True),
                "euler_ancestral": (EulerAncestralDiscreteScheduler(**common), True),
                "dpmpp_2m": (DPMSolverMultistepScheduler(**common), False),
                "dpmpp_2m_leading": (DPMSolverMultistepScheduler(timestep_spacing="leading", steps_offset=1, **common), False),
            }
            if prediction == "v_prediction":
                made["ddim_zero"] = (DDIMScheduler(**ddim, **zero), False)
                made["euler_zero"] = (EulerDiscreteScheduler(**common, **zero), True)
                made["dpmpp_2m_zero"] = (DPMSolverMultistepScheduler(**common, **zero), False)
            for name, (scheduler, in_sigmas) in made.items():
                out[f"{name}.{prediction}.{n}"] = run(scheduler, n, x, in_sigmas)
    for n in (4, 9):
        sd3 = FlowMatchEulerDiscreteScheduler(shift=3.0)
        sd3.set_timesteps(n)
        flux = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        flux.set_timesteps(sigmas=np.linspace(1, 1 / n, n), mu=0.5 + (1536 - 256) * 0.65 / 3840)
        for name, scheduler in [("sd3", sd3), ("flux", flux)]:
            y = x
            for t in scheduler.timesteps:
                y = scheduler.step(network(y, float(t)), t, y).prev_sample
            out[f"{name}.{n}"] = y
            out[f"{name}.sigmas.{n}"] = scheduler.sigmas.clone()
    save("solvers.safetensors", out)


def main():
    lr_schedules()
    ddpm()
    losses()
    flow()
    solvers()


if __name__ == "__main__":
    main()
