"""Tiny Lumina-Image-2.0 (lumina2) and Lumina-Next (lumina_next): diffusers' and the authors' names.

Both see t = 1 - sigma in 0..1 and give z - noise. Captions differ in length within the batch.
"""

from common import FIXTURES, gen, randn, randomise, save_tensors
from layouts import lumina2, lumina_next, to_diffusers, to_original
from network import record, resized, same, write_diffusers

import torch

CAPTION = 12
LAYERS, REFINERS = 2, 1


def tiny_lumina2():
    """Norms of query and key have epsilon 1e-5, as in diffusers and in Apex, which the authors train with."""
    from diffusers import Lumina2Transformer2DModel

    model = Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        hidden_size=24,
        num_layers=LAYERS,
        num_refiner_layers=REFINERS,
        # Each key head serves two neighbouring query heads.
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=8,
        # An inner width of 16 rather than four times the width.
        ffn_dim_multiplier=1 / 6,
        norm_eps=1e-5,
        axes_dim_rope=(2, 2, 2),
        axes_lens=(32, 16, 16),
        cap_feat_dim=CAPTION,
    )
    return randomise(model, seed=171)


def tiny_lumina_next():
    from diffusers import LuminaNextDiT2DModel

    model = LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=LAYERS,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=8,
        # An inner width of 24 rather than 8/3 of the width.
        ffn_dim_multiplier=0.25,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=CAPTION,
    )
    randomise(model, seed=172)
    # The authors have one query projection for image and text keys; diffusers keeps it twice.
    for layer in model.layers:
        layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
        layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())
    return model


def lumina2_table(model):
    return lumina2(model.config.num_layers, model.config.num_refiner_layers)


def predict(model, sample, sigmas, context, mask):
    return model(sample, 1 - sigmas, context, mask).sample


def forward(model, x):
    return {"out": predict(model, x["sample"], x["sigmas"], x["context"], x["context_mask"])}


def forward_next(model, x):
    """`out_full` also has the authors' unused estimate of the variance; a sampler keeps `out`.

    Rotation as in the specification: with a head of 8, pairs (row w0, column w0, row w1,
    column w1), w = 10000^(-4j/8). Given as complex numbers of each place.
    """
    dim = model.head_dim
    omega = 10000.0 ** (-4.0 * torch.arange(dim // 4) / dim)
    places = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1)
    angles = (places[:, :, None, :] * omega[:, None]).flatten(2)
    rotation = torch.polar(torch.ones_like(angles), angles)
    full = model(
        x["sample"], 1 - x["sigmas"], x["context"], x["context_mask"], rotation, cross_attention_kwargs={}
    ).sample
    return {"out": full.chunk(2, 1)[0], "out_full": full}


def inputs(channels, seed):
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4], dtype=torch.int64)
    return {
        "sample": randn(2, channels, 8, 6, seed=seed),
        "sigmas": torch.tensor([0.25, 0.625]),
        "context": randn(2, 9, CAPTION, seed=seed + 1),
        "context_mask": mask,
    }


def make_lumina2():
    from diffusers.loaders.single_file_utils import convert_lumina2_to_diffusers as convert

    folder, model = FIXTURES / "lumina2", tiny_lumina2()
    state, table = model.state_dict(), lumina2_table(model)
    write_diffusers(model, folder)
    original = to_original(table, state)
    # The published file holds a norm that nothing uses.
    unused = {"norm_final.weight": 1 + 0.1 * torch.randn(24, generator=gen(373))}
    save_tensors(folder / "original.safetensors", {**original, **unused})
    sizes = {"q_dim = 2304": "q_dim = 24", "k_dim = v_dim = 768": "k_dim = v_dim = 12"}
    same(resized(convert, sizes)({**original, **unused}), state)
    same(to_diffusers(table, original, state), state)

    io = record(
        model,
        inputs(16, 371),
        forward,
        ["sample", "context"],
        ["out"],
        seed=374,
        rename=lambda grads: to_original(table, grads, gradients=True),
    )
    assert not io["grad.context"][1, 5:].any()
    save_tensors(folder / "io.safetensors", io)


def make_lumina_next():
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    folder, model = FIXTURES / "lumina_next", tiny_lumina_next()
    state, table = model.state_dict(), lumina_next(LAYERS)
    write_diffusers(model, folder)
    original = to_original(table, state)
    save_tensors(folder / "original.safetensors", original)
    same(to_diffusers(table, original, state), state)

    def rename(grads):
        # Images of one size need no padding, so the token for it has no gradient.
        grads = to_original(table, {**grads, "pad_token": torch.zeros_like(model.pad_token)}, gradients=True)
        return {k: v for k, v in grads.items() if k != "pad_token"}

    x = inputs(4, 381)
    # The bias of the text keys' norm shifts all logits of a query alike: its gradient is zero.
    zero = ["attn2.norm_k.bias"]
    io = record(model, x, forward_next, ["sample", "context"], ["out"], seed=384, rename=rename, zero=zero)
    # The same with diffusers' own table of rotations.
    rotation = get_2d_rotary_pos_embed_lumina(8, 16, 16)
    full = model(x["sample"], 1 - x["sigmas"], x["context"], x["context_mask"], rotation, cross_attention_kwargs={}).sample
    torch.testing.assert_close(full, io["out_full"], rtol=0, atol=2e-6)
    assert not io["grad.context"][1, 5:].any()
    save_tensors(folder / "io.safetensors", io)


def main():
    make_lumina2()
    make_lumina_next()


if __name__ == "__main__":
    main()
