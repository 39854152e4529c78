"""The same small model in its authors' names and in Diffusers' names, for every family that has both.

The tensors hold a pattern that the test makes again from a tensor's name: element `i` of tensor `n` is the 16-bit
number `((crc32(n) xor i * 2654435761) >> 9) mod 65536`. So only names, shapes and checksums are stored. Where
diffusers has a converter for the authors' files, the Diffusers tensors are what it makes of the pattern, and the
names and shapes are those of a small model built by diffusers.
"""

import gzip
import zlib
from types import SimpleNamespace

from common import FIXTURES, clip_key, tiny_unet_linear, tiny_vae

import numpy
import torch
from diffusers import FluxTransformer2DModel, Lumina2Transformer2DModel, LuminaNextDiT2DModel, SD3Transformer2DModel
from diffusers.loaders import single_file_utils as convert

from make_single_file import RESNET, unet_key, vae_key, vae_value


def pattern(name, shape):
    index = numpy.arange(int(numpy.prod(shape, dtype=numpy.int64)), dtype=numpy.uint64)
    mixed = (index * 2654435761) % 2**32 ^ numpy.uint64(zlib.crc32(name.encode()))
    values = ((mixed >> numpy.uint64(9)) % 65536).astype("<u2").astype(numpy.int32)
    return torch.from_numpy(values).reshape(shape)


def checksum(tensor):
    return zlib.crc32(tensor.contiguous().numpy().astype("<u2").tobytes())


def linear(names, path, out, inputs, bias=True):
    names[f"{path}.weight"] = [out, inputs]
    if bias:
        names[f"{path}.bias"] = [out]


def flux():
    """Full-size rows, which diffusers' converter insists on, but a single column."""
    names, d = {}, 3072
    linear(names, "img_in", d, 1)
    linear(names, "txt_in", d, 1)
    for part in ["time_in", "vector_in", "guidance_in"]:
        linear(names, f"{part}.in_layer", d, 1)
        linear(names, f"{part}.out_layer", d, 1)
    for n in range(2):
        for stream in ["img", "txt"]:
            block = f"double_blocks.{n}.{stream}"
            linear(names, f"{block}_mod.lin", 6 * d, 1)
            linear(names, f"{block}_attn.qkv", 3 * d, 1)
            names[f"{block}_attn.norm.query_norm.scale"] = [128]
            names[f"{block}_attn.norm.key_norm.scale"] = [128]
            linear(names, f"{block}_attn.proj", d, 1)
            linear(names, f"{block}_mlp.0", 4 * d, 1)
            linear(names, f"{block}_mlp.2", d, 1)
    for n in range(3):
        block = f"single_blocks.{n}"
        linear(names, f"{block}.linear1", 7 * d, 1)
        linear(names, f"{block}.linear2", d, 1)
        linear(names, f"{block}.modulation.lin", 3 * d, 1)
        names[f"{block}.norm.query_norm.scale"] = [128]
        names[f"{block}.norm.key_norm.scale"] = [128]
    linear(names, "final_layer.linear", 64, 1)
    linear(names, "final_layer.adaLN_modulation.1", 2 * d, 1)
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=2, num_single_layers=3, guidance_embeds=True)
    return names, convert.convert_flux_transformer_checkpoint_to_diffusers, model.state_dict(), False


def sd3(medium35):
    names, d, depth, context, pooled = {}, 8, 3, 12, 10
    names["pos_embed"] = [1, 16, d]
    names["x_embedder.proj.weight"] = [d, 16, 2, 2]
    names["x_embedder.proj.bias"] = [d]
    for part, width in [("t_embedder", 256), ("y_embedder", pooled)]:
        linear(names, f"{part}.mlp.0", d, width)
        linear(names, f"{part}.mlp.2", d, d)
    linear(names, "context_embedder", d, context)
    dual = (0, 1) if medium35 else ()
    for n in range(depth):
        for side in ["context_block", "x_block"]:
            block, last = f"joint_blocks.{n}.{side}", n == depth - 1 and side == "context_block"
            for attention in ["attn", "attn2"] if n in dual and side == "x_block" else ["attn"]:
                linear(names, f"{block}.{attention}.qkv", 3 * d, d)
                if medium35:
                    names[f"{block}.{attention}.ln_q.weight"] = [4]
                    names[f"{block}.{attention}.ln_k.weight"] = [4]
                if not last:
                    linear(names, f"{block}.{attention}.proj", d, d)
            if not last:
                linear(names, f"{block}.mlp.fc1", 4 * d, d)
                linear(names, f"{block}.mlp.fc2", d, 4 * d)
            chunks = 2 if last else 9 if n in dual and side == "x_block" else 6
            linear(names, f"{block}.adaLN_modulation.1", chunks * d, d)
    linear(names, "final_layer.linear", 64, d)
    linear(names, "final_layer.adaLN_modulation.1", 2 * d, d)
    model = SD3Transformer2DModel(
        num_layers=depth,
        num_attention_heads=2,
        attention_head_dim=4,
        joint_attention_dim=context,
        caption_projection_dim=d,
        pooled_projection_dim=pooled,
        pos_embed_max_size=4,
        qk_norm="rms_norm" if medium35 else None,
        dual_attention_layers=dual,
    )
    return names, convert.convert_sd3_transformer_checkpoint_to_diffusers, model.state_dict(), True


def lumina2():
    """Full-size rows with a single column, as for FLUX."""
    names, d = {}, 2304
    linear(names, "t_embedder.mlp.0", 1024, 1)
    linear(names, "t_embedder.mlp.2", 1024, 1)
    names["cap_embedder.0.weight"] = [2304]
    linear(names, "cap_embedder.1", d, 1)
    linear(names, "x_embedder", d, 1)
    for kind in ["layers", "noise_refiner", "context_refiner"]:
        for n in range(2):
            block = f"{kind}.{n}"
            names[f"{block}.attention.qkv.weight"] = [3840, 1]
            names[f"{block}.attention.out.weight"] = [d, 1]
            for norm in ["q_norm", "k_norm"]:
                names[f"{block}.attention.{norm}.weight"] = [96]
            for part, rows in [("w1", 9216), ("w2", d), ("w3", 9216)]:
                names[f"{block}.feed_forward.{part}.weight"] = [rows, 1]
            for norm in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"]:
                names[f"{block}.{norm}.weight"] = [d]
            if kind != "context_refiner":
                linear(names, f"{block}.adaLN_modulation.1", 4 * d, 1)
    linear(names, "final_layer.linear", 64, 1)
    linear(names, "final_layer.adaLN_modulation.1", d, 1)
    # Unused; Diffusers drops it.
    names["norm_final.weight"] = [d]
    with torch.device("meta"):
        model = Lumina2Transformer2DModel(num_layers=2, cap_feat_dim=2304)
    return names, convert.convert_lumina2_to_diffusers, model.state_dict(), False


def lumina_next():
    """Diffusers has no converter for these files; the table is the one its conversion script publishes as names."""
    names, d, heads, kv, text, time = {}, 32, 4, 2, 10, 32
    head = d // heads
    names["pad_token"] = [d]
    linear(names, "x_embedder", d, 16)
    linear(names, "t_embedder.mlp.0", time, 256)
    linear(names, "t_embedder.mlp.2", time, time)
    names["cap_embedder.0.weight"], names["cap_embedder.0.bias"] = [text], [text]
    linear(names, "cap_embedder.1", time, text)
    mlp = 256
    attention = [
        ("wq", ["attn1.to_q", "attn2.to_q"], d, d),
        ("wk", ["attn1.to_k"], kv * head, d),
        ("wv", ["attn1.to_v"], kv * head, d),
        ("wk_y", ["attn2.to_k"], kv * head, text),
        ("wv_y", ["attn2.to_v"], kv * head, text),
        ("wo", ["attn2.to_out.0"], d, d),
    ]
    norms = [
        ("q_norm", ["attn1.norm_q", "attn2.norm_q"], d),
        ("k_norm", ["attn1.norm_k"], kv * head),
        ("ky_norm", ["attn2.norm_k"], kv * head),
    ]
    table = {
        "pad_token": ["pad_token"],
        "x_embedder": ["patch_embedder.proj"],
        "t_embedder.mlp.0": ["time_caption_embed.timestep_embedder.linear_1"],
        "t_embedder.mlp.2": ["time_caption_embed.timestep_embedder.linear_2"],
        "cap_embedder.0": ["time_caption_embed.caption_embedder.0"],
        "cap_embedder.1": ["time_caption_embed.caption_embedder.1"],
        "final_layer.adaLN_modulation.1": ["norm_out.linear_1"],
        "final_layer.linear": ["norm_out.linear_2"],
    }
    for n in range(2):
        block = f"layers.{n}"
        for ours, theirs, out, inputs in attention:
            linear(names, f"{block}.attention.{ours}", out, inputs, bias=False)
            table[f"{block}.attention.{ours}"] = [f"{block}.{name}" for name in theirs]
        for ours, theirs, width in norms:
            names[f"{block}.attention.{ours}.weight"] = names[f"{block}.attention.{ours}.bias"] = [width]
            table[f"{block}.attention.{ours}"] = [f"{block}.{name}" for name in theirs]
        names[f"{block}.attention.gate"] = [heads]
        table[f"{block}.attention.gate"] = [f"{block}.gate"]
        for i, (out, inputs) in enumerate([(mlp, d), (d, mlp), (mlp, d)], 1):
            linear(names, f"{block}.feed_forward.w{i}", out, inputs, bias=False)
            table[f"{block}.feed_forward.w{i}"] = [f"{block}.feed_forward.linear_{i}"]
        for ours, theirs, width in [
            ("attention_norm1", "norm1.norm", d),
            ("attention_norm2", "norm2", d),
            ("ffn_norm1", "ffn_norm1", d),
            ("ffn_norm2", "ffn_norm2", d),
            ("attention_y_norm", "norm1_context", text),
        ]:
            names[f"{block}.{ours}.weight"] = [width]
            table[f"{block}.{ours}"] = [f"{block}.{theirs}"]
        linear(names, f"{block}.adaLN_modulation.1", 4 * d, time)
        table[f"{block}.adaLN_modulation.1"] = [f"{block}.norm1.linear"]
    linear(names, "final_layer.linear", 32, d)
    linear(names, "final_layer.adaLN_modulation.1", d, time)

    def converter(checkpoint):
        out = {}
        for name, value in checkpoint.items():
            stem, _, leaf = name.rpartition(".")
            if name in table:
                stem, leaf = name, ""
            for theirs in table[stem]:
                out[f"{theirs}.{leaf}".rstrip(".")] = value
        return out

    model = LuminaNextDiT2DModel(
        hidden_size=d,
        num_layers=2,
        num_attention_heads=heads,
        num_kv_heads=kv,
        cross_attention_dim=text,
    )
    return names, converter, model.state_dict(), True


def sdxl_unet():
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 6, 10),
        norm_num_groups=2,
        transformer_layers_per_block=[1, 2, 3],
        attention_head_dim=[1, 1, 2],
        cross_attention_dim=9,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=29,
    )
    top = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    # Where each block of the published model stands: three levels, two blocks down and three up.
    places = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    places["mid_block.resnets.1"] = "middle_block.2"
    for level, blocks in enumerate([(1, 2), (4, 5), (7, 8)]):
        for j, block in enumerate(blocks):
            places[f"down_blocks.{level}.resnets.{j}"] = f"input_blocks.{block}.0"
            places[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{block}.1"
    places["down_blocks.0.downsamplers.0.conv"] = "input_blocks.3.0.op"
    places["down_blocks.1.downsamplers.0.conv"] = "input_blocks.6.0.op"
    for level, blocks in enumerate([(0, 1, 2), (3, 4, 5), (6, 7, 8)]):
        for j, block in enumerate(blocks):
            places[f"up_blocks.{level}.resnets.{j}"] = f"output_blocks.{block}.0"
            places[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{block}.1"
    places["up_blocks.0.upsamplers.0.conv"] = "output_blocks.2.2.conv"
    places["up_blocks.1.upsamplers.0.conv"] = "output_blocks.5.2.conv"

    def original(key):
        stem, _, leaf = key.rpartition(".")
        if stem in top:
            return f"{top[stem]}.{leaf}"
        place = max((p for p in places if key.startswith(p + ".")), key=len)
        rest = key[len(place) + 1 :]
        if ".resnets." in place:
            for ours, theirs in RESNET:
                if rest.startswith(ours + "."):
                    rest = theirs + rest[len(ours) :]
                    break
        return f"{places[place]}.{rest}"

    prefix = "model.diffusion_model."
    names = {prefix + original(k): list(v.shape) for k, v in model.state_dict().items()}
    return names, lambda c: convert.convert_ldm_unet_checkpoint(c, model.config), model.state_dict(), True


def sd2_unet():
    model, prefix = tiny_unet_linear(), "model.diffusion_model."
    names = {prefix + unet_key(k): list(v.shape) for k, v in model.state_dict().items()}
    return names, lambda c: convert.convert_ldm_unet_checkpoint(c, model.config), model.state_dict(), True


def transformers_names(prefix, model, rename=lambda key: key):
    """Whole-model files keep these encoders under the names of Transformers, behind a prefix."""
    state = {rename(k): v for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    names = {prefix + k: list(v.shape) for k, v in state.items()}
    return names, lambda c: {k.removeprefix(prefix): v for k, v in c.items()}, state, True


def clip_text(prefix, projection):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=6,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=20,
        max_position_embeddings=7,
        projection_dim=6,
    )
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    return transformers_names(prefix, model, lambda key: key if key.startswith("text_projection") else clip_key(key))


def t5():
    from transformers import T5Config, T5EncoderModel

    sizes = dict(vocab_size=20, d_model=8, num_heads=2, d_kv=3, d_ff=12, num_layers=2)
    model = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", relative_attention_num_buckets=8, **sizes))
    return transformers_names("text_encoders.t5xxl.transformer.", model)


def gemma():
    from transformers import Gemma2Config, Gemma2Model

    sizes = dict(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, head_dim=4)
    model = Gemma2Model(Gemma2Config(num_attention_heads=2, num_key_value_heads=1, **sizes))
    return transformers_names("text_encoders.gemma2_2b.transformer.model.", model)


def open_clip(prefix, layers, projection):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    names, d, kept = {}, 6, layers if projection else layers - 1
    names["token_embedding.weight"] = [20, d]
    names["positional_embedding"] = [7, d]
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        for norm in ["ln_1", "ln_2"]:
            names[f"{block}.{norm}.weight"] = names[f"{block}.{norm}.bias"] = [d]
        names[f"{block}.attn.in_proj_weight"] = [3 * d, d]
        names[f"{block}.attn.in_proj_bias"] = [3 * d]
        linear(names, f"{block}.attn.out_proj", d, d)
        linear(names, f"{block}.mlp.c_fc", 4 * d, d)
        linear(names, f"{block}.mlp.c_proj", d, 4 * d)
    names["ln_final.weight"] = names["ln_final.bias"] = [d]
    names["text_projection"] = [d, d]
    names["logit_scale"] = []
    config = CLIPTextConfig(
        hidden_size=d,
        intermediate_size=4 * d,
        num_hidden_layers=kept,
        num_attention_heads=2,
        vocab_size=20,
        max_position_embeddings=7,
        projection_dim=d,
    )
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    state = {k if k.startswith("text_") else "text_model." + k: v for k, v in model.state_dict().items()}

    def converter(checkpoint):
        made = convert.convert_open_clip_checkpoint(SimpleNamespace(config=config), checkpoint, prefix)
        # `CLIPTextModel` has no projection, and its loader drops what the model does not have.
        return {k: v for k, v in made.items() if projection or k != "text_projection.weight"}

    return {prefix + k: v for k, v in names.items()}, converter, state, True


def vae16():
    model = tiny_vae(16)
    names = {vae_key(k): list(vae_value(vae_key(k), v).shape) for k, v in model.state_dict().items()}
    return names, lambda c: convert.convert_ldm_vae_checkpoint(c, model.config), model.state_dict(), True


LAYOUTS = {
    "vae16": vae16,
    "sd2_text": lambda: open_clip("cond_stage_model.model.", 24, False),
    "sdxl_text_2": lambda: open_clip("conditioner.embedders.1.model.", 2, True),
    "sdxl_text": lambda: clip_text("conditioner.embedders.0.transformer.", False),
    "sd3_text_2": lambda: clip_text("text_encoders.clip_g.transformer.", True),
    "t5": t5,
    "gemma": gemma,
    "sd2_unet": sd2_unet,
    "sdxl_unet": sdxl_unet,
    "sd3": lambda: sd3(False),
    "sd35": lambda: sd3(True),
    "flux": flux,
    "lumina2": lumina2,
    "lumina_next": lumina_next,
}


def main():
    lines = []
    for label, make in LAYOUTS.items():
        names, converter, model, whole_shapes = make()
        tensors = {name: pattern(name, shape) for name, shape in names.items()}
        diffusers = converter(dict(tensors))
        model = {k: v for k, v in model.items() if not k.endswith("position_ids")}
        assert set(diffusers) == set(model), (label, sorted(set(diffusers) ^ set(model))[:6])
        for name, value in model.items():
            wanted, found = list(value.shape), list(diffusers[name].shape)
            assert found == wanted if whole_shapes else found[0] == wanted[0], (label, name, found, wanted)
        for layout, made in [("original", tensors), ("diffusers", diffusers)]:
            lines.append(f"# {label} {layout}")
            for name, value in sorted(made.items()):
                lines.append(f"{name} [{','.join(map(str, value.shape))}] {checksum(value):08x}")
        print(f"  {label}: {len(tensors)} tensors, {len(diffusers)} in Diffusers' names")
    (FIXTURES / "layouts.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", 9, mtime=0))


if __name__ == "__main__":
    main()
