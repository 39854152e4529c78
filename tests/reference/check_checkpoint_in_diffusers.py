"""Does diffusers load a saved checkpoint, and do its parts give the outputs we expect?

usage: check_checkpoint_in_diffusers.py MODEL [--config DIFFUSERS_DIR] --io IO.safetensors [--io ...] [--tolerance 1e-4]

MODEL is a Diffusers directory, or a single file in LDM naming; a single file also needs
--config, a Diffusers directory whose configs describe it (nothing is fetched).
The tensors present in an IO file decide what is run:
  sample, timesteps, context -> out          the U-Net (and sample_odd -> out_odd)
  image -> moments, latent -> decoded        the autoencoder
  input_ids -> last                          the text encoder
Exits with 0 if everything agrees, 1 if not (also if there was nothing to compare).
"""

import argparse
import os
import sys

import common  # noqa: F401  (thread count, offline mode)

import torch
from safetensors.torch import load_file


class Parts:
    """Loads the components of MODEL when they are asked for."""

    def __init__(self, model, config):
        self.model, self.single = model, not os.path.isdir(model)
        self.config = config or model
        if self.single and not config:
            raise SystemExit("a single file needs --config")

    def _load(self, cls, name):
        if self.single:
            return cls.from_single_file(self.model, config=self.config, subfolder=name, local_files_only=True).eval()
        return cls.from_pretrained(self.model, subfolder=name, local_files_only=True).eval()

    def unet(self):
        from diffusers import UNet2DConditionModel

        return self._load(UNet2DConditionModel, "unet")

    def vae(self):
        from diffusers import AutoencoderKL

        return self._load(AutoencoderKL, "vae")

    def text_encoder(self):
        from transformers import CLIPTextConfig, CLIPTextModel

        if not self.single:
            # Without a dtype transformers would compute in the precision of the file.
            return CLIPTextModel.from_pretrained(
                self.model, subfolder="text_encoder", dtype=torch.float32, local_files_only=True
            ).eval()
        from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

        prefix = "cond_stage_model.transformer."
        state = convert_ldm_clip_checkpoint(load_file(self.model), remove_prefix=prefix)
        state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
        model = CLIPTextModel(CLIPTextConfig.from_pretrained(self.config, subfolder="text_encoder")).eval()
        known = set(model.state_dict())
        if not any(k.startswith("text_model.") for k in known):
            state = {k.removeprefix("text_model."): v for k, v in state.items()}
        model.load_state_dict(state, strict=True)
        return model


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--config")
    parser.add_argument("--io", action="append", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args(argv)

    parts = Parts(args.model, args.config)
    failures, compared = [], 0

    def compare(name, got, want):
        nonlocal compared
        compared += 1
        scale = max(1.0, float(want.abs().max()))
        worst = float((got - want).abs().max()) if got.shape == want.shape else float("inf")
        ok = worst <= args.tolerance * scale
        print(f"{'ok  ' if ok else 'FAIL'} {name}: worst deviation {worst:.3g}, largest value {float(want.abs().max()):.3g}")
        if not ok:
            failures.append(name)

    with torch.no_grad():
        for path in args.io:
            io = load_file(path)
            if {"sample", "timesteps", "context", "out"} <= set(io):
                unet = parts.unet()
                compare("U-Net", unet(io["sample"], io["timesteps"], io["context"]).sample, io["out"])
                if "out_odd" in io:
                    got = unet(io["sample_odd"], io["timesteps"], io["context"]).sample
                    compare("U-Net, odd size", got, io["out_odd"])
            if {"image", "moments"} <= set(io):
                vae = parts.vae()
                compare("VAE encoder", vae.encode(io["image"]).latent_dist.parameters, io["moments"])
                compare("VAE decoder", vae.decode(io["latent"]).sample, io["decoded"])
            if {"input_ids", "last"} <= set(io):
                compare("text encoder", parts.text_encoder()(io["input_ids"])[0], io["last"])

    if not compared:
        print("nothing to compare: no known tensors in", ", ".join(args.io))
        failures.append("nothing compared")
    print("verdict:", "FAIL (" + ", ".join(failures) + ")" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
