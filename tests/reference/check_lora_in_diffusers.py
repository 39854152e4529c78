"""Does diffusers load a LoRA file, and does its U-Net then give the outputs we expect?

usage: check_lora_in_diffusers.py BASE_DIFFUSERS_DIR LORA.safetensors IO.safetensors [--tolerance 1e-4]

IO holds `sample`, `timesteps`, `context` and `out_with_lora`; optionally `out` (the
output without the LoRA), and for text-encoder LoRAs `input_ids` and `te_out_with_lora`.
Exits with 0 if everything agrees, 1 if not.
"""

import argparse
import sys

import common  # noqa: F401  (thread count, offline mode)

import torch
from safetensors.torch import load_file


def pipeline_of(folder):
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    local = dict(local_files_only=True)
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder, subfolder="vae", **local),
        text_encoder=CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", dtype=torch.float32, **local
        ).eval(),
        tokenizer=None,
        unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **local).eval(),
        scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler", **local),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("lora")
    parser.add_argument("io")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args(argv)

    io = load_file(args.io)
    failures = []

    def compare(name, got, want):
        scale = max(1.0, float(want.abs().max()))
        worst = float((got - want).abs().max())
        ok = got.shape == want.shape and worst <= args.tolerance * scale
        print(f"{'ok  ' if ok else 'FAIL'} {name}: worst deviation {worst:.3g}, largest value {float(want.abs().max()):.3g}")
        if not ok:
            failures.append(name)

    pipeline = pipeline_of(args.base)

    def unet():
        with torch.no_grad():
            return pipeline.unet(io["sample"], io["timesteps"], io["context"]).sample

    before = unet()
    if "out" in io:
        compare("U-Net without LoRA", before, io["out"])

    state = load_file(args.lora)
    pipeline.load_lora_weights(args.lora)
    # diffusers drops names it does not know with a warning at most, so count the layers.
    modules = {key.split(".")[0] for key in state}
    for prefix, component in [("lora_unet_", pipeline.unet), ("lora_te", pipeline.text_encoder)]:
        wanted = sum(name.startswith(prefix) for name in modules)
        loaded = sum("default_0" in getattr(m, "lora_A", {}) for m in component.modules())
        print(f"{'ok  ' if wanted == loaded else 'FAIL'} {prefix}*: {loaded} of {wanted} modules loaded")
        if wanted != loaded:
            failures.append(prefix)
    compare("U-Net with LoRA", unet(), io["out_with_lora"])
    if "te_out_with_lora" in io:
        with torch.no_grad():
            compare("text encoder with LoRA", pipeline.text_encoder(io["input_ids"])[0], io["te_out_with_lora"])
    if float((io["out_with_lora"] - before).abs().max()) <= 10 * args.tolerance and any(
        name.startswith("lora_unet_") for name in modules
    ):
        print("FAIL the LoRA does not change the output enough to tell")
        failures.append("effect")

    print("verdict:", "FAIL (" + ", ".join(failures) + ")" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
