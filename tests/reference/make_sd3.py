"""Tiny SD3 Medium (sd3) and SD3.5 Medium (sd35m): diffusers' and the authors' weight names.

The second has norms of query and key and, in its first block, a second attention of the
image with as many heads as the first (the published model; spec Q2). The context stream of
the last block only supplies query, key and value.
"""

from common import FIXTURES, randn, randomise, save_tensors
from layouts import sd3, to_diffusers, to_original
from network import damp, record, same, write_diffusers

import torch

LAYERS, CONTEXT, POOLED = 2, 20, 12


def tiny_sd3(medium35=False):
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=LAYERS,
        num_attention_heads=2,
        attention_head_dim=8,
        caption_projection_dim=16,
        joint_attention_dim=CONTEXT,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=7,
        dual_attention_layers=(0,) if medium35 else (),
        qk_norm="rms_norm" if medium35 else None,
    )
    damp(randomise(model, seed=152 if medium35 else 151))
    # Not the computed table: it has to be loaded.
    model.pos_embed.pos_embed.copy_(randn(*model.pos_embed.pos_embed.shape, seed=153, scale=0.5))
    return model


def table(model):
    return sd3(LAYERS, len(model.config.dual_attention_layers))


def forward(model, x):
    return {"out": model(x["sample"], x["context"], x["pooled"], x["timesteps"]).sample}


def make(name, model, seed):
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers as convert

    folder, state = FIXTURES / name, model.state_dict()
    write_diffusers(model, folder)
    # The published files have this prefix.
    original = {"model.diffusion_model." + k: v for k, v in to_original(table(model), state).items()}
    save_tensors(folder / "original.safetensors", original)
    same(convert(dict(original)), state)
    bare = {k.removeprefix("model.diffusion_model."): v for k, v in original.items()}
    same(to_diffusers(table(model), bare, state), state)

    # 4 x 3 tokens of the 7 x 7 table; sigma is a multiple of 1/16, so 1000 sigma is exact.
    sigmas = torch.tensor([0.25, 0.625])
    inputs = {
        "sample": randn(2, 16, 8, 6, seed=seed),
        "sigmas": sigmas,
        "timesteps": 1000 * sigmas,
        "context": randn(2, 9, CONTEXT, seed=seed + 1),
        "pooled": randn(2, POOLED, seed=seed + 2),
    }
    buffers = {"pos_embed.pos_embed": torch.zeros_like(state["pos_embed.pos_embed"])}

    def rename(grads):
        # The position table is not a parameter.
        grads = to_original(table(model), {**grads, **buffers}, gradients=True)
        return {k: v for k, v in grads.items() if k != "pos_embed"}

    io = record(model, inputs, forward, ["sample", "context", "pooled"], ["out"], seed=seed + 3, rename=rename)
    save_tensors(folder / "io.safetensors", io)


# Width, side of the trained square in patches, and the sides of what is cut out of the middle of the grid.
SCALED = [(16, 4, 4, 6), (16, 6, 9, 5), (24, 5, 7, 7)]


def scaled_positions(width, p):
    """Computed positions as sd-scripts' `enable_scaled_pos_embed` has them: [g, g, width], g = floor(1.5 p)."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid

    g = p * 3 // 2
    axis = 16 / p * (torch.arange(g, dtype=torch.float64) - (g - p) / 2)
    # The first half of an embedding is that of the column.
    columns, rows = torch.meshgrid(axis, axis, indexing="xy")
    table = get_2d_sincos_pos_embed_from_grid(width, torch.stack([columns, rows]), output_type="pt")
    return table.float().reshape(g, g, width)


def middle(table, h, w):
    top, left = (table.shape[0] - h) // 2, (table.shape[1] - w) // 2
    return table[top : top + h, left : left + w].contiguous()


def main():
    tables = {f"{d}.{p}.{h}.{w}": middle(scaled_positions(d, p), h, w) for d, p, h, w in SCALED}
    save_tensors(FIXTURES / "sd3" / "scaled_positions.safetensors", tables)
    make("sd3", tiny_sd3(), seed=331)
    make("sd35m", tiny_sd3(medium35=True), seed=341)


if __name__ == "__main__":
    main()
