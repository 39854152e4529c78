"""The tiny pipeline as one LDM-keyed file, and the rest of the Diffusers directory.

The renaming below is written out from the key tables of the published formats; the
result is then converted back with diffusers' own converters and compared bit by bit,
and loaded through diffusers' `from_single_file`.
"""

import re

from common import CONTEXT, DIFFUSERS_DIR, FIXTURES, save_json, save_tensors

import torch
from safetensors.torch import load_file

RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]


def unet_key(key):
    top = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    stem, _, leaf = key.rpartition(".")
    if stem in top:
        return f"{top[stem]}.{leaf}"

    def resnet(rest):
        for ours, theirs in RESNET:
            if rest.startswith(ours + "."):
                return theirs + rest[len(ours):]
        raise KeyError(key)

    m = re.fullmatch(r"down_blocks\.(\d)\.(resnets|attentions|downsamplers)\.(\d)\.(.+)", key)
    if m:
        i, kind, j, rest = int(m[1]), m[2], int(m[3]), m[4]
        if kind == "resnets":
            return f"input_blocks.{3 * i + j + 1}.0.{resnet(rest)}"
        if kind == "attentions":
            return f"input_blocks.{3 * i + j + 1}.1.{rest}"
        return f"input_blocks.{3 * i + 3}.0.op.{rest.removeprefix('conv.')}"
    m = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key)
    if m:
        if m[1] == "attentions":
            return f"middle_block.1.{m[3]}"
        return f"middle_block.{2 * int(m[2])}.{resnet(m[3])}"
    m = re.fullmatch(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)\.(.+)", key)
    if m:
        i, kind, j, rest = int(m[1]), m[2], int(m[3]), m[4]
        if kind == "resnets":
            return f"output_blocks.{3 * i + j}.0.{resnet(rest)}"
        if kind == "attentions":
            return f"output_blocks.{3 * i + j}.1.{rest}"
        # The deepest level has no transformer, so its up-sampler comes one place earlier.
        return f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}.{rest}"
    raise KeyError(key)


def vae_key(key):
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]:
            key = key.replace(f".{ours}.", f".{theirs}.")
    return key


def vae_value(key, value):
    """Single files keep the attention of the autoencoder as 1x1 convolutions."""
    return value[:, :, None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", key) else value


def main():
    save_json(
        DIFFUSERS_DIR / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.42.1",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDPMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": [None, None],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    save_json(
        DIFFUSERS_DIR / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "DDPMScheduler",
            "_diffusers_version": "0.42.1",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "trained_betas": None,
        },
    )

    unet = load_file(DIFFUSERS_DIR / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(DIFFUSERS_DIR / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(DIFFUSERS_DIR / "text_encoder" / "model.safetensors")

    single = {}
    for key, value in unet.items():
        single["model.diffusion_model." + unet_key(key)] = value
    for key, value in vae.items():
        key = vae_key(key)
        single["first_stage_model." + key] = vae_value(key, value)
    for key, value in text.items():
        single["cond_stage_model.transformer." + key] = value
    assert len(single) == len(unet) + len(vae) + len(text)
    # Buffers that real files carry and that a loader has to ignore.
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    single["betas"] = betas
    single["alphas_cumprod"] = torch.cumprod(1 - betas, 0)
    single["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    path = FIXTURES / "single_file" / "model.safetensors"
    save_tensors(path, single)

    verify(path, unet, vae, text)


def verify(path, unet, vae, text):
    import json

    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as utils

    def same(ours, theirs, what):
        assert set(ours) == set(theirs), (what, sorted(set(ours) ^ set(theirs))[:6])
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), (what, key)

    def config(name):
        return json.loads((DIFFUSERS_DIR / name / "config.json").read_text())

    checkpoint = load_file(path)
    same(unet, utils.convert_ldm_unet_checkpoint(dict(checkpoint), config("unet")), "unet")
    same(vae, utils.convert_ldm_vae_checkpoint(dict(checkpoint), config("vae")), "vae")
    back = utils.convert_ldm_clip_checkpoint(dict(checkpoint), remove_prefix="cond_stage_model.transformer.")
    same(text, {k: v for k, v in back.items() if not k.endswith("position_ids")}, "text encoder")

    model = UNet2DConditionModel.from_single_file(str(path), config=str(DIFFUSERS_DIR), subfolder="unet", local_files_only=True)
    same(unet, model.state_dict(), "unet from_single_file")
    model = AutoencoderKL.from_single_file(str(path), config=str(DIFFUSERS_DIR), subfolder="vae", local_files_only=True)
    same(vae, model.state_dict(), "vae from_single_file")
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(DIFFUSERS_DIR), tokenizer=None, local_files_only=True
    )
    same(unet, pipeline.unet.state_dict(), "unet of the directory")
    same(vae, pipeline.vae.state_dict(), "vae of the directory")
    assert pipeline.text_encoder.config.hidden_size == CONTEXT == pipeline.unet.config.cross_attention_dim
    print("  single file and directory load in diffusers with equal tensors")


if __name__ == "__main__":
    main()
