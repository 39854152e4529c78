"""Tiny FLUX.1 dev (flux, with guidance) and schnell (flux_schnell): diffusers' and BFL's weight names.

diffusers multiplies sigma and the guidance by 1000 itself, so it is given sigma in 0..1.
"""

from common import FIXTURES, randn, randomise, save_tensors
from layouts import flux, to_diffusers, to_original
from network import damp, record, resized, same, write_diffusers

import torch

CONTEXT, POOLED = 20, 12


def tiny_flux(dev=True):
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1 if dev else 2,
        num_single_layers=2 if dev else 1,
        num_attention_heads=2,
        attention_head_dim=8,
        joint_attention_dim=CONTEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=dev,
        # All axes differ in meaning, so the two image axes differ in width too.
        axes_dims_rope=(2, 4, 2) if dev else (2, 2, 4),
    )
    return damp(randomise(model, seed=161 if dev else 162))


def table(model):
    return flux(model.config.num_layers, model.config.num_single_layers)


def pack(x):
    """[B, C, H, W] to [B, H/2 W/2, 4C]: features in the order channel, row, column of the patch."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens, h, w):
    b, _, c = tokens.shape
    return tokens.view(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, h, w)


def image_ids(h, w):
    rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3)


def predict(model, sample, sigmas, context, pooled, guidance=None, mask=None):
    """Packed velocity. `mask` [B, T] hides padded text as keys, in both kinds of block."""
    h, w = sample.shape[-2:]
    kwargs = {}
    if mask is not None:
        keys = torch.cat([mask.bool(), torch.ones(len(mask), h * w // 4, dtype=torch.bool)], 1)
        kwargs["joint_attention_kwargs"] = {"attention_mask": keys[:, None, None, :]}
    return model(
        hidden_states=pack(sample),
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=sigmas,
        guidance=guidance,
        img_ids=image_ids(h, w).to(sample.dtype),
        txt_ids=torch.zeros(context.shape[1], 3, dtype=sample.dtype),
        **kwargs,
    ).sample


def forward(model, x):
    size = x["sample"].shape[-2:]
    arguments = [x["sample"], x["sigmas"], x["context"], x["pooled"], x.get("guidance")]
    packed = predict(model, *arguments)
    masked = predict(model, *arguments, mask=x["context_mask"])
    return {"out": unpack(packed, *size), "out_packed": packed, "out_masked": unpack(masked, *size)}


def make(name, model, seed):
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers as convert

    folder, state = FIXTURES / name, model.state_dict()
    write_diffusers(model, folder)
    original = to_original(table(model), state)
    save_tensors(folder / "original.safetensors", original)
    same(resized(convert, {"inner_dim = 3072": "inner_dim = 16"})(dict(original)), state)
    same(to_diffusers(table(model), original, state), state)

    inputs = {
        "sample": randn(2, 16, 8, 6, seed=seed),
        # Multiples of 1/16, so that 1000 sigma is exact.
        "sigmas": torch.tensor([0.25, 0.625]),
        "context": randn(2, 7, CONTEXT, seed=seed + 1),
        "context_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3], dtype=torch.int64),
        "pooled": randn(2, POOLED, seed=seed + 2),
    }
    if model.config.guidance_embeds:
        inputs["guidance"] = torch.tensor([1.0, 0.75])
    io = record(
        model,
        inputs,
        forward,
        ["sample", "context", "pooled"],
        ["out"],
        seed=seed + 3,
        rename=lambda grads: to_original(table(model), grads, gradients=True),
    )
    # Without a mask all text takes part, and it matters.
    assert (io["out"] - io["out_masked"])[0].abs().max() < 1e-5 < 1e-2 < (io["out"] - io["out_masked"])[1].abs().max()
    ids = {"packed": pack(inputs["sample"]), "img_ids": image_ids(8, 6), "txt_ids": torch.zeros(7, 3, dtype=torch.int64)}
    save_tensors(folder / "io.safetensors", {**io, **ids})


def main():
    make("flux", tiny_flux(), seed=351)
    make("flux_schnell", tiny_flux(dev=False), seed=361)


if __name__ == "__main__":
    main()
