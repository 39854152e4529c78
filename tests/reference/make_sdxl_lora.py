"""A LoRA run (peft) on the tiny SDXL U-Net: epsilon, text_time conditioning, the authors' names.

Otherwise as make_lora_trajectory.py, whose adapter it uses.
"""

from common import FIXTURES, randn, save_tensors, spread
from make_lora_trajectory import Lora, merged, schedule
from make_sdxl_unet import CONTEXT, POOLED, original_name, tiny_sdxl_unet
from network import cast
from training import check, rows, seed_factors, train

import torch

OUT = FIXTURES / "lora_trajectory_sdxl"


def make_replay():
    sizes = [[96, 64, 0, 0, 96, 64], [128, 64, 0, 8, 96, 64], [96, 96, 16, 0, 96, 64], [64, 48, 0, 0, 96, 64]]
    return {
        "latents": randn(8, 4, 12, 8, seed=541),
        "noise": randn(8, 4, 12, 8, seed=542),
        "timesteps": torch.tensor([3, 871, 120, 555, 999, 60, 333, 742], dtype=torch.int64),
        "context": randn(8, 11, CONTEXT, seed=543),
        "pooled": randn(8, POOLED, seed=544),
        "time_ids": torch.tensor(sizes * 2, dtype=torch.float32),
    }


def noisy(x):
    return schedule().add_noise(x["latents"], x["noise"], x["timesteps"])


def predict(model, sample, x):
    added = {"text_embeds": x["pooled"], "time_ids": x["time_ids"]}
    return model(sample, x["timesteps"], x["context"], added_cond_kwargs=added).sample


def run(dtype, replay):
    lora = Lora(tiny_sdxl_unet(), original_name)
    assert len(lora.modules) == 192
    factors = lora.named_parameters()
    trained = {id(p) for p in lora.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in factors.values()}
    # The same float32 values in both types.
    seed_factors(factors, 545, 1.0)
    lora.model.to(dtype)
    factors, initial = lora.named_parameters(), lora.state_dict()

    def loss_of(x):
        return torch.nn.functional.mse_loss(predict(lora.model, noisy(x), x), x["noise"])

    return lora, initial, train(factors, cast(replay, dtype), loss_of)


def main():
    replay = make_replay()
    save_tensors(OUT / "replay.safetensors", replay)
    lora, initial, result = run(torch.float32, replay)
    double, _, exact = run(torch.float64, replay)
    final = lora.state_dict()
    check((result, final), (exact, {k: v.detach() for k, v in double.named_parameters().items()}), initial)

    x = rows(replay, 0)
    sample = noisy(x)
    with torch.no_grad():
        base, adapted = predict(tiny_sdxl_unet(), sample, x), predict(lora.model, sample, x)
        plain = predict(merged(final, tiny_sdxl_unet(), original_name), sample, x)
    torch.testing.assert_close(plain, adapted, rtol=0, atol=2e-5)
    losses, first = result
    losses |= {"grad0." + k: first[k] for k in spread(sorted(first), 12)}
    conditioning = {k: v for k, v in x.items() if k not in ("latents", "noise")}
    save_tensors(OUT / "init.safetensors", initial)
    save_tensors(OUT / "final.safetensors", final)
    save_tensors(OUT / "losses.safetensors", losses)
    save_tensors(OUT / "io.safetensors", {"sample": sample, **conditioning, "out": base, "out_with_lora": adapted})
    print("   ", [round(v, 4) for v in losses["losses"].tolist()])


if __name__ == "__main__":
    main()
