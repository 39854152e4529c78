"""Noise schedule, timestep embedding, AdamW on fixed gradients, learning-rate schedules."""

from common import FIXTURES, randn, save_tensors

import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from transformers import get_scheduler

OUT = FIXTURES / "schedule_optim"


def noise_schedule():
    kwargs = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    plain = DDPMScheduler(**kwargs)
    zero = DDPMScheduler(rescale_betas_zero_snr=True, **kwargs)
    for t, value in {0: 0.999149978, 499: 0.277669460, 500: 0.276332498, 999: 0.004660096}.items():
        assert abs(float(plain.alphas_cumprod[t]) - value) < 1e-7, t
    for t, value in {0: 0.999149978, 499: 0.242358953, 999: 0.0}.items():
        assert abs(float(zero.alphas_cumprod[t]) - value) < 1e-6, t
    t = torch.tensor([0, 1, 500, 999])
    x0, noise = randn(4, 4, 2, 2, seed=601), randn(4, 4, 2, 2, seed=602)
    save_tensors(
        OUT / "noise.safetensors",
        {
            "betas": plain.betas,
            "alphas_cumprod": plain.alphas_cumprod,
            "alphas_cumprod_zero_snr": zero.alphas_cumprod,
            "timesteps": t,
            "timestep_embedding_320": get_timestep_embedding(t, 320, flip_sin_to_cos=True, downscale_freq_shift=0),
            "latents": x0,
            "noise": noise,
            "noisy": plain.add_noise(x0, noise, t),
            "velocity": plain.get_velocity(x0, noise, t),
        },
    )


def adamw():
    """50 steps; gradients of very different size, one exact zero, so that eps shows."""
    out = {}
    for name, shape, weight_decay, seed in [("a", (7, 5), 0.01, 611), ("b", (16,), 0.0, 612)]:
        parameter = torch.nn.Parameter(randn(*shape, seed=seed))
        size = 10.0 ** (randn(*shape, seed=seed + 10) * 3 - 3)
        grads = randn(50, *shape, seed=seed + 20) * size
        grads.view(50, -1)[:, 0] = 0.0
        optimizer = torch.optim.AdamW([parameter], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
        out[f"{name}.init"] = parameter.detach().clone()
        out[f"{name}.grads"] = grads
        out[f"{name}.weight_decay"] = torch.tensor(weight_decay)
        out[f"{name}.lr"] = torch.tensor(1e-2)
        for k in range(50):
            parameter.grad = grads[k].clone()
            optimizer.step()
            if k in (0, 9):
                out[f"{name}.after_{k + 1}"] = parameter.detach().clone()
        state = optimizer.state[parameter]
        out[f"{name}.final"] = parameter.detach()
        out[f"{name}.final_exp_avg"] = state["exp_avg"]
        out[f"{name}.final_exp_avg_sq"] = state["exp_avg_sq"]
    save_tensors(OUT / "adamw.safetensors", out)


def lr_schedules():
    """Multipliers of the base learning rate at t = 0..100, for N = 100 and 10 warmup steps."""
    base, total, warmup = 1e-4, 100, 10
    table = {
        "constant": (0, None),
        "constant_with_warmup": (warmup, None),
        "linear": (warmup, None),
        "cosine": (warmup, None),
        "cosine_with_restarts": (warmup, {"num_cycles": 3}),
        "polynomial": (warmup, {"power": 2.0}),
        "inverse_sqrt": (warmup, None),
        "cosine_with_min_lr": (warmup, {"min_lr_rate": 0.1}),
        "warmup_stable_decay": (warmup, {"num_decay_steps": 30, "min_lr_ratio": 0.1}),
    }
    out = {}
    for name, (steps, specific) in table.items():
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=base)
        scheduler = get_scheduler(
            name, optimizer, num_warmup_steps=steps, num_training_steps=total, scheduler_specific_kwargs=specific
        )
        out[name] = torch.tensor([float(scheduler.lr_lambdas[0](t)) for t in range(total + 1)], dtype=torch.float64).float()
        values = [round(float(out[name][t]), 4) for t in (0, 5, 10, 50, 80, 99, 100)]
        print("   ", name, values)
    save_tensors(OUT / "lr_schedules.safetensors", out)


def main():
    noise_schedule()
    adamw()
    lr_schedules()


if __name__ == "__main__":
    main()
