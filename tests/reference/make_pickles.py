"""Torch checkpoints of every form the reader has to know, with the values they hold.

`state.safetensors` and `lightning.safetensors` hold the same tensors as the checkpoints
beside them, contiguous and in the same types; `fp8.safetensors` the value of each code of
the two 8-bit float types, and scaled weights with the result of their scaling.

The files are what `torch.save` writes, with one change: the oldest form names storages by
their addresses and sorts them by that, which differs from run to run; here they are
numbered and stay in the order of the tensors.
"""

import collections
import re
import shutil
import sys
import types

from common import FIXTURES, HERE, gen, randn

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = FIXTURES / "pickles"

# Used by torch for nothing but the order of storages in the oldest form.
torch.serialization.sorted = list


def state():
    """Views, transposes, shared storages and every element type a checkpoint can have."""
    base = randn(4, 6, seed=301)
    kernel = randn(2, 3, 3, 3, seed=302)
    ids = torch.arange(77).reshape(1, 77)
    return collections.OrderedDict(
        plain=base,
        transposed=base.t(),
        rows=base[1:3],
        columns=base[:, 2:5],
        every_second=base.flatten()[1::2],
        tied=base,
        channels_last=kernel.to(memory_format=torch.channels_last),
        permuted=kernel.permute(3, 1, 0, 2),
        expanded=randn(3, 1, seed=303).expand(3, 5),
        scalar=torch.tensor(0.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(randn(5, seed=304)),
        frozen=torch.nn.Parameter(randn(3, 2, seed=305).t(), requires_grad=False),
        half=randn(3, 4, seed=306).half(),
        half_transposed=randn(3, 4, seed=307).half().t(),
        bfloat=randn(7, seed=308).bfloat16(),
        double=randn(2, 2, seed=309).double(),
        ids=ids,
        ids_view=ids[:, 70:],
        ints=torch.tensor([[-1, 2], [3, 2**31 - 1]], dtype=torch.int32).t(),
        shorts=torch.tensor([-(2**15), 7], dtype=torch.int16),
        chars=torch.tensor([-128, 127], dtype=torch.int8),
        bytes=torch.arange(0, 250, 50, dtype=torch.uint8),
        mask=torch.tensor([[True, False, True], [False, True, True]]).t(),
    )


def module():
    """The state dictionary of a module: an OrderedDict with an attribute of its own."""
    torch.manual_seed(310)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GroupNorm(1, 2)).state_dict()


class Foreign:
    """Puts a name into a module that need not be installed, so that it can be pickled."""

    def __init__(self, module, name, thing):
        thing.__module__, thing.__qualname__ = module, name
        setattr(sys.modules.setdefault(module, types.ModuleType(module)), name, thing)


def scalar(dtype, value):
    raise RuntimeError("never called: pickled by its name")


class ModelCheckpoint:
    pass


class Scalar:
    """A numpy scalar as numpy 1 pickled it: `numpy.core.multiarray.scalar(dtype, bytes)`."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return scalar, (self.value.dtype, self.value.tobytes())


def lightning():
    """What pytorch-lightning wrote in the days of Stable Diffusion 1."""
    Foreign("numpy.core.multiarray", "scalar", scalar)
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules.setdefault(name, types.ModuleType(name))
    Foreign("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", ModelCheckpoint)
    callback = ModelCheckpoint()
    callback.monitor = "val/loss"
    weights = {
        "model.diffusion_model.input_blocks.0.0.weight": randn(4, 2, seed=320).t(),
        "first_stage_model.decoder.conv_in.weight": randn(2, 4, 3, 3, seed=321).half(),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(5)[None],
    }
    moments = {"step": 7, "exp_avg": randn(4, 2, seed=322), "exp_avg_sq": randn(4, 2, seed=323)}
    return weights, {
        "epoch": 12,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": weights,
        "callbacks": {ModelCheckpoint: {"monitor": "val/loss", "best_model_score": torch.tensor(0.25), "it": callback}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": Scalar(np.float64(1e-4)), "betas": (0.9, 0.999), "params": [0]}]}],
        "lr_schedulers": [{"last_epoch": Scalar(np.int64(470000)), "base_lrs": [1e-4], "lr_lambdas": [None], "size": torch.Size([2, 3]), "device": torch.device("cpu")}],
        "native_amp_scaling_state": None,
    }


def number_addresses(data):
    """Storage names of the oldest form: addresses in decimal, as texts of 12 to 16 digits."""
    names = {}

    def number(match):
        key = b"%d" % names.setdefault(match[1], len(names))
        return b"X" + len(key).to_bytes(4, "little") + key

    return re.sub(rb"X[\x0c-\x10]\0\0\0(\d{12,16})", number, data)


def save(name, value, **options):
    path = FOLDER / name
    torch.save(value, path, **options)
    if options.get("_use_new_zipfile_serialization") is False:
        path.write_bytes(number_addresses(path.read_bytes()))
    print(f"  pickles/{name}: {path.stat().st_size / 1000:.1f} kB")


def contiguous(tensors):
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def fp8():
    codes = torch.arange(256, dtype=torch.uint8)
    out = {}
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        out[f"{name}.codes"] = codes.clone().view(dtype)
        out[f"{name}.values"] = codes.view(dtype).float()
    # A scale for the whole, one a row, one a row as a column.
    for name, dtype, scale in (
        ("whole", torch.float8_e4m3fn, torch.tensor(0.0123)),
        ("rows", torch.float8_e5m2, torch.rand(4, generator=gen(331)) + 0.5),
        ("column", torch.float8_e4m3fn, torch.rand(4, 1, generator=gen(332)) + 0.5),
    ):
        stored = randn(4, 6, seed=333, scale=10).to(dtype)
        out[f"{name}.weight"] = stored
        out[f"{name}.scale_weight" if name == "whole" else f"{name}.weight_scale"] = scale
        out[f"{name}.result"] = stored.float() * (scale[:, None] if name == "rows" else scale)
    out["whole.scale_input"] = torch.tensor(2.0)
    # Rounding: values of all sizes, and those halfway between neighbours. Beyond 464 torch gives NaN and we saturate.
    middle = out["e4m3.values"][:126]
    values = torch.cat([randn(600, seed=334) * 10 ** (randn(600, seed=335) - 2), (middle[1:] + middle[:-1]) / 2])
    values = torch.cat([values, -values, middle]).clamp(-448, 448)
    out["cast.values"] = values
    out["cast.codes"] = values.to(torch.float8_e4m3fn)
    out["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    return out


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    tensors = state()
    save("zip.pt", tensors)
    save("legacy.pt", tensors, _use_new_zipfile_serialization=False)
    save("protocol4.pt", tensors, pickle_protocol=4)
    save_file(contiguous(tensors), FOLDER / "state.safetensors")
    save("module.bin", module())
    save_file(contiguous(module()), FOLDER / "module.safetensors")
    weights, checkpoint = lightning()
    save("lightning.ckpt", checkpoint)
    save("lightning-legacy.ckpt", checkpoint, _use_new_zipfile_serialization=False)
    save_file(contiguous(weights), FOLDER / "lightning.safetensors")
    save_file(fp8(), FOLDER / "fp8.safetensors")
    # Written by `pipe` (see README) and judged by check_ckpt.py; only its place is made here.
    ours = HERE.parent / "fixtures" / "pickles" / "ours.ckpt"
    if ours != FOLDER / "ours.ckpt" and ours.exists():
        shutil.copy(ours, FOLDER / "ours.ckpt")


if __name__ == "__main__":
    main()
