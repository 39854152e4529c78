"""Full-size Stable Diffusion 1.5: state-dict keys and LoRA module names (no weights)."""

from common import FIXTURES, clip_key

import torch

UNET_TARGETS = ["Transformer2DModel"]
UNET_CONV_TARGETS = UNET_TARGETS + ["ResnetBlock2D", "Downsample2D", "Upsample2D"]
TEXT_TARGETS = ["CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"]


def full_size():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                vocab_size=49408,
                projection_dim=768,
            )
        )
    return unet, vae, text


def discover(model, targets, prefix, rename=lambda name: name):
    """Every Linear and Conv2d inside a module whose class is a target, in registration order."""
    found = {}
    for parent, module in model.named_modules():
        if type(module).__name__ not in targets:
            continue
        for child, leaf in module.named_modules():
            if type(leaf).__name__ not in ("Linear", "Conv2d"):
                continue
            path = ".".join(x for x in (parent, child) if x)
            name = prefix + "_" + rename(path).replace(".", "_")
            assert name not in found, name
            found[name] = (path, leaf)
    return found


def describe(leaf):
    if type(leaf).__name__ == "Linear":
        return f"linear {leaf.in_features} {leaf.out_features}"
    kind = {(1, 1): "conv1x1", (3, 3): "conv3x3"}[tuple(leaf.kernel_size)]
    return f"{kind} {leaf.in_channels} {leaf.out_channels}"


def main():
    unet, vae, text = full_size()
    lines = []
    for label, model, count, rename in [
        ("unet", unet, 686, str),
        ("vae", vae, 248, str),
        ("text_encoder", text, 196, clip_key),
    ]:
        state = {rename(k): v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
        assert len(state) == count, (label, len(state))
        total = sum(v.numel() for v in state.values())
        lines.append(f"# {label} {count} tensors {total} parameters")
        lines += [f"{k} [{','.join(map(str, v.shape))}]" for k, v in sorted(state.items())]
    (FIXTURES / "sd15_keys.txt").write_text("\n".join(lines) + "\n")

    te = discover(text, TEXT_TARGETS, "lora_te", clip_key)
    plain = discover(unet, UNET_TARGETS, "lora_unet")
    conv = discover(unet, UNET_CONV_TARGETS, "lora_unet")
    assert (len(te), len(plain), len(conv)) == (72, 192, 278), (len(te), len(plain), len(conv))
    lines = []
    for label, found in [("te", te), ("unet", plain), ("unet_conv", conv)]:
        lines.append(f"# {label} {len(found)} modules")
        lines += [f"{name} {describe(leaf)}" for name, (_, leaf) in found.items()]
    (FIXTURES / "sd15_lora_keys.txt").write_text("\n".join(lines) + "\n")
    print("  sd15_keys.txt and sd15_lora_keys.txt written")


if __name__ == "__main__":
    main()
