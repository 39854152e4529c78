"""Samplers on toy models: diffusers' schedulers, the sample after each step, as JSON.

The toy model's output is 0.1 times its input. For the U-Nets that is the noise or, with
`v_prediction`, the velocity; the input is the sample as the sampler scales it. The
transformers' toy output is what the network itself gives, so Lumina's step negates it.
"""

import math

from common import FIXTURES, randn, save_json

import diffusers.schedulers.scheduling_euler_ancestral_discrete as ancestral
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
STEPS = (4, 10)
VALUES = 4


def numbers(tensor):
    return [float(v) for v in tensor]


def toy(x):
    return 0.1 * x


def ddim(**kwargs):
    # Nothing is clipped (spec Q25), except where the reference trainer's previews are to be equalled.
    return DDIMScheduler(**BETAS, set_alpha_to_one=True, **dict(dict(clip_sample=False), **kwargs))


UNETS = {
    # steps_offset 0 and `leading`: t = floor(1000 / n) k.
    "ddim": lambda **k: ddim(timestep_spacing="leading", **k),
    "ddim_clipped": lambda **k: ddim(timestep_spacing="leading", clip_sample=True, **k),
    "ddim_trailing": lambda **k: ddim(timestep_spacing="trailing", **k),
    "ddim_zero_terminal_snr": lambda **k: ddim(timestep_spacing="trailing", rescale_betas_zero_snr=True, **k),
    **{
        f"{name}_{spacing}": lambda kind=kind, spacing=spacing, **k: kind(**BETAS, timestep_spacing=spacing, **k)
        for name, kind in {
            "euler": EulerDiscreteScheduler,
            "euler_ancestral": EulerAncestralDiscreteScheduler,
            # Order 2, midpoint, first order at the end when there are fewer than 15 steps, final sigma 0.
            "dpmpp_2m": DPMSolverMultistepScheduler,
        }.items()
        for spacing in ("linspace", "trailing")
    },
}


def unet_run(name, prediction, steps):
    scheduler = UNETS[name](prediction_type=prediction)
    scheduler.set_timesteps(steps)
    seed = 700 + steps
    x = randn(VALUES, seed=seed) * scheduler.init_noise_sigma
    run = {"sampler": name, "prediction": prediction, "steps": steps, "timesteps": numbers(scheduler.timesteps), "x": [numbers(x)]}
    if hasattr(scheduler, "sigmas"):
        run["sigmas"] = numbers(scheduler.sigmas)
    else:
        previous = scheduler.timesteps - 1000 // steps
        table = scheduler.alphas_cumprod
        run["alphas"] = numbers(table[scheduler.timesteps])
        run["alphas_previous"] = [float(table[t]) if t >= 0 else 1.0 for t in previous]
    noise = randn(steps, VALUES, seed=seed + 1)
    original = ancestral.randn_tensor
    for k, t in enumerate(scheduler.timesteps):
        ancestral.randn_tensor = lambda *args, **kwargs: noise[k]
        try:
            x = scheduler.step(toy(scheduler.scale_model_input(x, t)), t, x).prev_sample
        finally:
            ancestral.randn_tensor = original
        run["x"].append(numbers(x))
    if name.startswith("euler_ancestral"):
        # The last step goes to sigma 0 and adds nothing.
        run["noise"] = [numbers(row) for row in noise]
    return run


def shifted(shift, u):
    return shift * u / (1 + (shift - 1) * u)


def flux_mu(tokens):
    return 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)


def flow_sigmas(family, n):
    """The specification's formulas (A17), and diffusers' scheduler set up to give the same."""
    if family in ("sd3", "lumina2"):
        # Shifted once in the table the range is taken from, and again: twice at the low end.
        shift = {"sd3": 3.0, "lumina2": 6.0}[family]
        low = shifted(shift, 0.001)
        sigmas = [shifted(shift, 1 + (low - 1) * k / (n - 1)) for k in range(n)]
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(n)
        return sigmas + [0.0], scheduler
    even = [1 - k / n for k in range(n)]
    if family == "flux_schnell":
        # The reference trainer shifts schnell like dev; its authors do not.
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        scheduler.set_timesteps(sigmas=even)
        return even + [0.0], scheduler
    mu = flux_mu({"flux_1024_tokens": 1024, "flux_4096_tokens": 4096}[family])
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=even, mu=mu)
    return [math.exp(mu) / (math.exp(mu) + (1 / u - 1)) for u in even] + [0.0], scheduler


# Published values for n = 4 (specification, part F).
KNOWN = {
    "sd3": [1, 0.857692, 0.602151, 0.008929, 0],
    "lumina2": [1, 0.923711, 0.753333, 0.034783, 0],
    "flux_1024_tokens": [1, 0.849235, 0.652489, 0.384945, 0],
    "flux_4096_tokens": [1, 0.904531, 0.759511, 0.512844, 0],
    "flux_schnell": [1, 0.75, 0.5, 0.25, 0],
}
# What the network is given for sigma.
TIME = {"sd3": lambda s: 1000 * s, "lumina2": lambda s: 1 - s}


def flow_run(family, n):
    sigmas, scheduler = flow_sigmas(family, n)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(sigmas, dtype=torch.float32), rtol=0, atol=2e-6)
    if n == 4:
        assert all(abs(a - b) < 1e-6 for a, b in zip(sigmas, KNOWN[family])), sigmas
    sign = -1 if family == "lumina2" else 1
    x = randn(VALUES, seed=800 + n)
    run = {
        "family": family,
        "steps": n,
        "sigmas": sigmas,
        "model_times": [TIME.get(family, float)(s) for s in sigmas[:-1]],
        "x": [numbers(x)],
    }
    for t in scheduler.timesteps:
        x = scheduler.step(sign * toy(x), t, x).prev_sample
        run["x"].append(numbers(x))
    return run


def main():
    unets = [unet_run(name, "epsilon", n) for name in UNETS if "zero" not in name for n in STEPS]
    velocity = ["ddim", "ddim_zero_terminal_snr", "euler_trailing", "euler_ancestral_trailing", "dpmpp_2m_trailing"]
    unets += [unet_run(name, "v_prediction", n) for name in velocity for n in STEPS]
    assert unets[0]["timesteps"] == [750, 500, 250, 0]
    flows = [flow_run(family, n) for family in KNOWN for n in STEPS]
    path = FIXTURES / "samplers.json"
    save_json(path, {"unet": unets, "flow": flows})
    print(f"  samplers.json: {len(unets)} and {len(flows)} runs, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
