"""Tiny SDXL-shaped U-Net: three levels with 0, 1 and 2 transformer layers, text_time conditioning."""

import re

from common import FIXTURES, randn, randomise, save_tensors
from make_single_file import RESNET
from network import record, write_diffusers

import torch

OUT = FIXTURES / "sdxl_unet"
CONTEXT, POOLED, TIME_ID = 12, 10, 4


def tiny_sdxl_unet():
    """`attention_head_dim` is diffusers' name for the number of heads of each level."""
    from diffusers import UNet2DConditionModel

    return randomise(
        UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(6, 8, 8),
            layers_per_block=2,
            norm_num_groups=2,
            cross_attention_dim=CONTEXT,
            attention_head_dim=(1, 2, 4),
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=TIME_ID,
            projection_class_embeddings_input_dim=POOLED + 6 * TIME_ID,
        ),
        seed=111,
    )


def original_name(key):
    """A key or module path in SGM's naming: that of SD1 with three levels and `label_emb`."""
    top = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for ours, theirs in top.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours):]
    m = re.fullmatch(r"(down_blocks\.(\d)|mid_block|up_blocks\.(\d))\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", key)
    place, kind, j, rest = m[1], m[4], int(m[5]), m[6]
    if kind == "resnets":
        ours, theirs = next(pair for pair in RESNET if rest.startswith(pair[0]))
        rest = theirs + rest[len(ours):]
    if place == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * j}.{rest}"
    i = int(m[2] or m[3])
    if kind == "downsamplers":
        return f"input_blocks.{3 * i + 3}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        # Both up-sampling levels have transformers, so it always comes third.
        return f"output_blocks.{3 * i + 2}.2.{rest}"
    block = f"input_blocks.{3 * i + j + 1}" if m[2] else f"output_blocks.{3 * i + j}"
    return f"{block}.{int(kind == 'attentions')}.{rest}"


def forward(model, x):
    added = {"text_embeds": x["text_embeds"], "time_ids": x["time_ids"]}
    return {"out": model(x["sample"], x["timesteps"], x["context"], added_cond_kwargs=added).sample}


def check_names(model):
    """diffusers' own conversion of the renamed weights has to give the weights back."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    state = model.state_dict()
    renamed = {"model.diffusion_model." + original_name(k): v for k, v in state.items()}
    assert len(renamed) == len(state)
    back = convert_ldm_unet_checkpoint(dict(renamed), dict(model.config))
    assert set(back) == set(state) and all(torch.equal(v, state[k]) for k, v in back.items())


def main():
    model = tiny_sdxl_unet()
    write_diffusers(model, OUT)
    check_names(model)
    # Sides divisible by 4, as three levels need; height, width, crop top and left, target height, width.
    inputs = {
        "sample": randn(2, 4, 12, 8, seed=321),
        "timesteps": torch.tensor([17, 803], dtype=torch.int64),
        "context": randn(2, 11, CONTEXT, seed=322),
        "text_embeds": randn(2, POOLED, seed=323),
        "time_ids": torch.tensor([[96, 64, 4, 0, 96, 64], [1024, 768, 0, 16, 832, 640]], dtype=torch.float32),
    }
    io = record(model, inputs, forward, ["sample", "context", "text_embeds"], ["out"], seed=324)
    save_tensors(OUT / "io.safetensors", io)


if __name__ == "__main__":
    main()
