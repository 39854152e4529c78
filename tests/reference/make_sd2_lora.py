"""A LoRA run (peft) on a tiny SD2 U-Net: v-prediction, linear projections, heads of one size.

Otherwise as make_lora_trajectory.py, whose adapter it uses.
"""

from common import FIXTURES, randn, randomise, save_tensors, spread
from make_lora_trajectory import Lora, merged, schedule
from network import cast, write_diffusers
from training import check, rows, seed_factors, train

import torch

OUT = FIXTURES / "lora_trajectory_sd2"
CONTEXT = 32


def tiny_sd2_unet():
    from diffusers import UNet2DConditionModel

    return randomise(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 12, 12),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=CONTEXT,
            # diffusers' name for the number of heads of each level.
            attention_head_dim=[2, 3, 3],
            use_linear_projection=True,
        ),
        seed=112,
    )


def make_replay():
    return {
        "latents": randn(8, 4, 8, 8, seed=641),
        "noise": randn(8, 4, 8, 8, seed=642),
        "timesteps": torch.tensor([3, 871, 120, 555, 999, 60, 333, 742], dtype=torch.int64),
        "context": randn(8, 11, CONTEXT, seed=643),
    }


def noisy(x):
    return schedule().add_noise(x["latents"], x["noise"], x["timesteps"])


def predict(model, sample, x):
    return model(sample, x["timesteps"], x["context"]).sample


def velocity(x):
    return schedule().get_velocity(x["latents"], x["noise"], x["timesteps"])


def run(dtype, replay):
    lora = Lora(tiny_sd2_unet())
    assert len(lora.modules) == 84, len(lora.modules)
    # The same float32 values in both types.
    seed_factors(lora.named_parameters(), 645, 1.0)
    lora.model.to(dtype)
    factors, initial = lora.named_parameters(), lora.state_dict()

    def loss_of(x):
        return torch.nn.functional.mse_loss(predict(lora.model, noisy(x), x), velocity(x))

    return lora, initial, train(factors, cast(replay, dtype), loss_of)


def main():
    write_diffusers(tiny_sd2_unet(), OUT)
    replay = make_replay()
    save_tensors(OUT / "replay.safetensors", replay)
    lora, initial, result = run(torch.float32, replay)
    double, _, exact = run(torch.float64, replay)
    final = lora.state_dict()
    check((result, final), (exact, {k: v.detach() for k, v in double.named_parameters().items()}), initial)

    x = rows(replay, 0)
    sample = noisy(x)
    with torch.no_grad():
        base, adapted = predict(tiny_sd2_unet(), sample, x), predict(lora.model, sample, x)
        plain = predict(merged(final, tiny_sd2_unet()), sample, x)
    torch.testing.assert_close(plain, adapted, rtol=0, atol=2e-5)
    losses, first = result
    losses |= {"grad0." + k: first[k] for k in spread(sorted(first), 12)}
    save_tensors(OUT / "init.safetensors", initial)
    save_tensors(OUT / "final.safetensors", final)
    save_tensors(OUT / "losses.safetensors", losses)
    conditioning = {k: v for k, v in x.items() if k not in ("latents", "noise")}
    save_tensors(OUT / "io.safetensors", {"sample": sample, **conditioning, "out": base, "out_with_lora": adapted})
    print("   ", [round(v, 4) for v in losses["losses"].tolist()])


if __name__ == "__main__":
    main()
