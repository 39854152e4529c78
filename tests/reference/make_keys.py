"""State-dict keys and LoRA module names of full-size models (no weights).

Stable Diffusion 1.5 as text, every other family in one compressed list.
"""

import gzip

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


def unet(context, linear=True, heads=(5, 10, 20, 20)):
    """SD2's U-Net."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=96,
        cross_attention_dim=context,
        attention_head_dim=list(heads),
        block_out_channels=(320, 640, 1280, 1280),
        use_linear_projection=linear,
    )


def sdxl_unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def vae(latent, quant):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=latent,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


def clip(width, layers, heads, mlp, projection):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=49408,
        projection_dim=width,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5():
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            is_gated_act=True,
            dense_act_fn="gelu_new",
        )
    )


def gemma1():
    from transformers import GemmaConfig, GemmaModel

    return GemmaModel(
        GemmaConfig(
            vocab_size=256000,
            hidden_size=2048,
            intermediate_size=16384,
            num_hidden_layers=18,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=256,
        )
    )


def gemma2():
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=256000,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
        )
    )


def sd3(depth, grid, qk_norm=None, dual=()):
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        num_layers=depth,
        num_attention_heads=depth,
        caption_projection_dim=64 * depth,
        pos_embed_max_size=grid,
        qk_norm=qk_norm,
        dual_attention_layers=dual,
    )


def flux(guidance):
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=guidance)


def lumina2():
    from diffusers import Lumina2Transformer2DModel

    return Lumina2Transformer2DModel(cap_feat_dim=2304)


def lumina_next():
    from diffusers import LuminaNextDiT2DModel

    return LuminaNextDiT2DModel(num_layers=24, num_kv_heads=8)


# Model, tensors and parameters as published (a buffer counts), classes whose layers a LoRA wraps.
FAMILIES = {
    "sd2_unet": (lambda: unet(1024), 686, 865910724, ["Transformer2DModel"]),
    "sdxl_unet": (sdxl_unet, 1680, 2567463684, ["Transformer2DModel"]),
    "sdxl_unet_conv": (sdxl_unet, 1680, 2567463684, UNET_CONV_TARGETS),
    "vae16": (lambda: vae(16, False), 244, 83819683, []),
    "clip_l": (lambda: clip(768, 12, 12, 3072, False), 196, 123060480, TEXT_TARGETS),
    "clip_h": (lambda: clip(1024, 23, 16, 4096, False), 372, 340387840, TEXT_TARGETS),
    "clip_g": (lambda: clip(1280, 32, 20, 5120, True), 517, 694659840, TEXT_TARGETS),
    "t5": (t5, 219, 4762310656, ["T5Attention", "T5DenseGatedActDense"]),
    "gemma1": (gemma1, 164, 2506172416, ["GemmaAttention", "GemmaMLP"]),
    "gemma2": (gemma2, 288, 2614341888, ["Gemma2Attention", "Gemma2MLP"]),
    "sd3_medium": (lambda: sd3(24, 192), None, 2028328000 + 56623104, []),
    "sd35_medium": (lambda: sd3(24, 384, "rms_norm", tuple(range(13))), None, 2243171520 + 226492416, []),
    "sd35_large": (lambda: sd3(38, 192, "rms_norm"), None, 8056627520 + 89653248, []),
    "flux_dev": (lambda: flux(True), None, 11901408320, []),
    "flux_schnell": (lambda: flux(False), None, 11891178560, []),
    # Without the unused last norm of the authors' files.
    "lumina2": (lumina2, None, 2609771456 - 2304, []),
    # Diffusers keeps the query matrix and its norm twice.
    "lumina_next": (lumina_next, None, 1627386400 + 24 * (2304 * 2304 + 2 * 2304), []),
}


def families():
    """Every family's Diffusers or Transformers keys, and its LoRA modules where those libraries name them."""
    lines = []
    for label, (build, count, parameters, targets) in FAMILIES.items():
        with torch.device("meta"):
            model = build()
        rename = clip_key if label in ("clip_l", "clip_h") else str
        state = {rename(k): v for k, v in model.state_dict().items()}
        state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
        if label == "t5":
            # One matrix under two names; files written by Transformers hold the first.
            state.pop("encoder.embed_tokens.weight")
        total = sum(v.numel() for v in state.values())
        assert count in (None, len(state)), (label, len(state))
        assert total == parameters, (label, total, parameters)
        if label != "sdxl_unet_conv":
            lines.append(f"# {label} {len(state)} tensors {total} parameters")
            lines += [f"{k} [{','.join(map(str, v.shape))}]" for k, v in sorted(state.items())]
        found = discover(model, targets, "", rename)
        if found:
            lines.append(f"# {label}.lora {len(found)} modules")
            lines += [f"{path} {describe(leaf)}" for path, leaf in found.values()]
        print(f"  {label}: {len(state)} tensors, {total} parameters, {len(found)} LoRA modules")
    (FIXTURES / "family_keys.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", 9, mtime=0))


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
            found[name] = (rename(path), leaf)
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
    families()


if __name__ == "__main__":
    main()
