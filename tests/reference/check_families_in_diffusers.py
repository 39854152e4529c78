"""Do diffusers and transformers load what `pipe` saves for every family, and does it compute the same?

usage: check_families_in_diffusers.py PIPE [--only FAMILY] [--keep FOLDER]

PIPE is the program. For each family a small model is made with its text encoders (of the
published vocabularies), autoencoder and tokenizers, run through one step of full fine-tuning
at a rate of 0 and saved in each layout. Then

  Diffusers folder   DiffusionPipeline.from_pretrained(folder) draws the same latents as a
                     pipeline of the original parts, and its tokenizers give the ids of the fixtures
  single file        from_single_file, as far as diffusers reads reduced sizes: its conversions
                     of FLUX and Lumina 2 get the sizes of the small model for those published
  LoRA               a LoRA that `pipe` saved is loaded by load_lora_weights, every module counts,
                     and the output is that of the fixture. diffusers knows kohya's names for SD1,
                     SD2, SDXL and FLUX; those of SD3 and Lumina 2 are renamed by layouts.py

diffusers 0.42.1 draws with Lumina-Next's folder, and its class reads neither single files (it has no
`from_single_file`) nor LoRAs (no `load_lora_weights`, no `add_adapter`). There the names of the single
file are turned by layouts.py and loaded strictly, and the LoRA goes onto the network through peft.

Exits with 0 if everything agrees.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import CONTEXT, FIXTURES, randomise, tiny_unet, tiny_vae
from layouts import swap_halves
from make_flow_lora import ALPHA, RANK
from make_flux import CONTEXT as FLUX_CONTEXT, POOLED as FLUX_POOLED, predict as flux_predict, tiny_flux, unpack
from make_lumina import CAPTION, forward_next, lumina2_table, predict as lumina_predict, tiny_lumina2, tiny_lumina_next
from make_sd2_lora import CONTEXT as SD2_CONTEXT, predict as sd2_predict, tiny_sd2_unet
from make_sd3 import LAYERS, tiny_sd3
from layouts import lumina_next as lumina_next_layout, sd3 as sd3_layout, to_diffusers
from make_sdxl_lora import predict as sdxl_predict
from make_sdxl_unet import tiny_sdxl_unet
from make_text_lora import clip, t5
from network import resized

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import lora_conversion_utils, lora_pipeline, single_file_model, single_file_utils
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "a cute shiba inu, 1girl, masterpiece!!", "sks dog"
failures = []


def verdict(name, ok, text):
    print(f"  {'ok  ' if ok else 'FAIL'} {name}: {text}")
    if not ok:
        failures.append(name)


def compare(name, got, want):
    same = got.shape == want.shape
    worst = float((got - want).abs().max()) if same else float("inf")
    largest = float(want.abs().max())
    verdict(name, same and worst <= TOLERANCE * max(1.0, largest), f"worst deviation {worst:.2g}, largest value {largest:.3g}")


def gemma2(width):
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=1100,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=256,
        attn_logit_softcapping=None,
        attn_implementation="eager",
    )
    return randomise(Gemma2Model(config), seed=713)


def gemma1(width):
    from transformers import GemmaConfig, GemmaModel

    config = GemmaConfig(
        vocab_size=1100,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=256,
        attn_implementation="eager",
    )
    return randomise(GemmaModel(config), seed=714)


def next_of_published_size():
    """diffusers' pipeline scales rotations by how far an image is from this size, which no weight tells."""
    model = tiny_lumina_next()
    model.register_to_config(sample_size=128)
    return model


class Family:
    """A small model: its denoiser, text encoders in order, and how documents and pipelines call them.

    `name` is the family of its node; `label` tells models of one family apart."""

    def __init__(self, name, denoiser, texts, nodes, loss, fixture, call, config="", label=None):
        self.name, self.denoiser, self.texts, self.nodes = name, denoiser, texts, nodes
        self.label = label or name
        self.loss, self.fixture, self.call, self.config = loss, fixture, call, config
        # Lumina-Next has SDXL's.
        self.vae = tiny_vae(4 if loss == "diffusion" or name == "lumina_next" else 16)


def families():
    clip_l = "type: encoder.clip_l, family: {}, config: {{ heads: 2 }}".format
    clip_g, t5xxl = "type: encoder.clip_g, config: { heads: 2 }", "type: encoder.t5xxl, max_tokens: {}".format
    small = dict(num_inference_steps=2, height=64, width=64)
    guided = dict(small, negative_prompt=NEGATIVE, guidance_scale=3.0)
    gemma = "type: encoder.gemma, max_tokens: 24, config: { head_dim: 8 }"
    return [
        Family("sd1", tiny_unet(), [clip(CONTEXT, "quick_gelu", None, 701)], [clip_l("sd1")], "diffusion", "lora_trajectory", guided),
        Family(
            "sd2",
            tiny_sd2_unet(),
            [clip(SD2_CONTEXT, "gelu", None, 702)],
            ["type: encoder.clip_h, config: { heads: 2 }"],
            "diffusion",
            "lora_trajectory_sd2",
            guided,
            ", prediction: v",
        ),
        Family(
            "sdxl",
            tiny_sdxl_unet(),
            [clip(4, "quick_gelu", None, 703), clip(8, "gelu", 10, 704)],
            [clip_l("sdxl"), clip_g],
            "diffusion",
            "lora_trajectory_sdxl",
            guided,
        ),
        Family(
            "sd3",
            tiny_sd3(),
            [clip(4, "quick_gelu", None, 705), clip(8, "gelu", 8, 706), t5(20, 707)],
            [clip_l("sd3"), clip_g, t5xxl(24)],
            "flow",
            "lora_trajectory_sd3",
            dict(guided, max_sequence_length=24),
        ),
        Family(
            "sd3",
            tiny_sd3(medium35=True),
            [clip(4, "quick_gelu", None, 721), clip(8, "gelu", 8, 722), t5(20, 723)],
            [clip_l("sd3"), clip_g, t5xxl(24)],
            "flow",
            "lora_trajectory_sd35m",
            dict(guided, max_sequence_length=24),
            label="sd35m",
        ),
        Family(
            "flux",
            tiny_flux(dev=False),
            [clip(FLUX_POOLED, "quick_gelu", None, 724), t5(FLUX_CONTEXT, 725)],
            [clip_l("flux"), t5xxl(24)],
            "flow",
            "lora_trajectory_flux_schnell",
            dict(small, guidance_scale=0.0, max_sequence_length=24),
            label="flux_schnell",
        ),
        Family(
            "flux",
            tiny_flux(),
            [clip(FLUX_POOLED, "quick_gelu", None, 708), t5(FLUX_CONTEXT, 709)],
            [clip_l("flux"), t5xxl(24)],
            "flow",
            "lora_trajectory_flux",
            dict(small, guidance_scale=3.5, max_sequence_length=24),
        ),
        Family(
            "lumina2",
            tiny_lumina2(),
            [gemma2(CAPTION)],
            [gemma],
            "flow",
            "lora_trajectory_lumina2",
            dict(guided, max_sequence_length=24, cfg_normalization=False),
        ),
        Family(
            "lumina_next",
            next_of_published_size(),
            [gemma1(CAPTION)],
            [gemma],
            "flow",
            "lora_trajectory_lumina_next",
            guided,
        ),
    ]


def write(model, folder):
    """A part's folder, as a user has it."""
    folder.mkdir(parents=True)
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    kind = type(model).__name__
    if kind.startswith("CLIP"):
        state = {k if k.startswith(("text_model.", "text_projection")) else "text_model." + k: v for k, v in state.items()}
    if kind == "T5EncoderModel":
        state.pop("encoder.embed_tokens.weight", None)
    in_diffusers = hasattr(model, "from_single_file") or isinstance(model, diffusers.ModelMixin)
    config = dict(model.config) if in_diffusers else model.config.to_diff_dict()
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    if in_diffusers:
        config["_class_name"] = kind
    save_file(state, str(folder / ("diffusion_pytorch_model" if in_diffusers else "model")) + ".safetensors")
    (folder / "config.json").write_text(json.dumps(config, default=str))


def run(pipe, folder, name, nodes):
    rows = "version: 1\nname: saved\ntrain: { device: cpu, steps: 1, batch_size: 2 }\nnodes:\n"
    document = folder / f"{name}.yaml"
    document.write_text(rows + "".join(f"  {k}: {{ {v} }}\n" for k, v in nodes.items()))
    subprocess.run([pipe, "run", str(document), "--output", str(folder / name)], check=True, capture_output=True)
    return folder / name / "checkpoints"


def documents(pipe, family, folder):
    """Saves the model in each layout and a LoRA; gives the folder of the results."""
    parts = {"denoiser": family.denoiser, "vae": family.vae}
    parts |= {f"text{i}": text for i, text in enumerate(family.texts)}
    for name, part in parts.items():
        write(part, folder / name)
    if family.name.startswith("lumina"):
        (folder / "tokenizer.json").write_bytes((FIXTURES / "gemma_small" / "tokenizer.json").read_bytes())
        family.nodes = [node + f", tokenizer: {folder / 'tokenizer.json'}" for node in family.nodes]
    fixture = FIXTURES / family.fixture
    common = {
        "rows": f"type: loader.replay, path: {fixture / 'replay.safetensors'}",
        "model": f"type: model.{family.name}, weights: {folder / 'denoiser'}{family.config}",
        "loss": f"type: loss.{family.loss}, model: learn, batch: rows",
        "adamw": "type: optimizer.adamw, loss: loss, learning_rate: 0.0",
    }
    names = [f"text{i}" for i in range(len(family.texts))]
    texts = {name: f"{line}, weights: {folder / name}" for name, line in zip(names, family.nodes)}
    with_parts = f", vae: vae, text: [{', '.join(names)}]"
    nodes = common | texts | {"vae": f"type: encoder.vae, weights: {folder / 'vae'}", "learn": "type: adapter.full, model: model"}
    for layout in ("single_file", "diffusers", "model_only"):
        more = "" if layout == "model_only" else with_parts
        nodes[layout] = f"type: saver.checkpoint, model: learn, name: {layout}, format: {layout}, dtype: f32{more}"
    whole = run(pipe, folder, "whole", nodes)
    rank = 4 if family.loss == "diffusion" else 2
    nodes = common | {"learn": f"type: adapter.lora, model: model, rank: {rank}, weights: {fixture / 'final.safetensors'}"}
    nodes["save"] = "type: saver.adapter, adapter: learn, update: adamw, dtype: f32"
    lora = run(pipe, folder, "lora", nodes) / "saved.safetensors"
    if family.name not in ("sd1", "sdxl"):
        return whole, lora, None
    # With text encoders, on a few layers of the U-Net.
    fixture = FIXTURES / f"lora_trajectory_text_{family.name}"
    nodes |= texts | {"rows": f"type: loader.replay, path: {fixture / 'replay.safetensors'}"}
    learn = f"type: adapter.lora, model: model, text: [{', '.join(names)}], rank: from_file"
    nodes["learn"] = f"{learn}, weights: {fixture / 'final.safetensors'}"
    return whole, lora, run(pipe, folder, "text_lora", nodes) / "saved.safetensors"


def reference(family, saved):
    """A pipeline of the original parts with the tokenizers and the scheduler of `saved`."""
    parts = dict(saved.components, vae=family.vae)
    for i, text in enumerate(family.texts):
        parts["text_encoder" + (f"_{i + 1}" if i else "")] = text
    parts["unet" if "unet" in parts else "transformer"] = family.denoiser
    if family.name == "sd3":
        # The published CLIP-L has the identity for its projection; diffusers wants it there.
        parts["text_encoder"] = with_identity(family.texts[0])
    kwargs = {"requires_safety_checker": False} if family.name in ("sd1", "sd2") else {}
    return type(saved)(**parts, **kwargs)


def with_identity(text):
    from transformers import CLIPTextModelWithProjection

    config = copy.deepcopy(text.config)
    model = CLIPTextModelWithProjection(config).eval()
    inner = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in text.state_dict().items()}
    known = set(model.state_dict())
    state = {k if k in known else k.removeprefix("text_model."): v for k, v in inner.items()}
    model.load_state_dict({**state, "text_projection.weight": torch.eye(config.hidden_size)})
    return model


def draw(pipeline, family):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    return pipeline(prompt=PROMPT, output_type="latent", generator=generator, **family.call).images


def check_tokenizers(pipeline, name):
    expected = {}
    for file, key in [("clip_tokens.json", "CLIP"), ("t5_tokens.json", "T5"), ("gemma_small/tokens.json", "Gemma")]:
        listed = json.loads((FIXTURES / file).read_text())
        expected[key] = listed.get("prompts") or listed["texts"]
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, part, None)
        if tokenizer is None:
            continue
        kind = next(key for key in expected if key in type(tokenizer).__name__)
        # Tokens written out in a text are the tokenizer's own affair.
        entries = [e for e in expected[kind] if not e.get("special")]
        # The published OpenCLIP tokenizers pad with "!" too, which makes it a token by itself.
        entries = [e for e in entries if tokenizer.pad_token != "!" or "!" not in e["text"]]
        wrong = [e["text"] for e in entries if tokenizer(e["text"]).input_ids != e.get("transformers", e["ids"])]
        verdict(f"{name} {part}", not wrong, f"{len(entries) - len(wrong)} of {len(entries)} texts, pad {tokenizer.pad_token!r}")


def patched(family):
    """diffusers' conversions with the sizes of the small model for the published ones."""
    classes = single_file_model.SINGLE_FILE_LOADABLE_CLASSES
    if family.name == "flux":
        name, sizes = "FluxTransformer2DModel", {"inner_dim = 3072": "inner_dim = 16"}
        convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    else:
        name, sizes = "Lumina2Transformer2DModel", {"q_dim = 2304": "q_dim = 24", "k_dim = v_dim = 768": "k_dim = v_dim = 12"}
        convert = single_file_utils.convert_lumina2_to_diffusers
    classes[name]["checkpoint_mapping_fn"] = resized(convert, sizes)


def by_names(family, path, folder, want):
    """A single file that diffusers' class cannot read: the authors' names as diffusers', all of them."""
    assert not hasattr(type(family.denoiser), "from_single_file"), "diffusers reads it now: check that"
    prefix = "model.diffusion_model."
    state = {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}
    denoiser = copy.deepcopy(family.denoiser)
    table = lumina_next_layout(len(denoiser.layers))
    turned = to_diffusers(table, state, denoiser.state_dict())
    denoiser.load_state_dict(turned, strict=True)
    pipeline = DiffusionPipeline.from_pretrained(folder, transformer=denoiser)
    compare(f"{family.name} single file by layouts.py, transformer", draw(pipeline, family), want)


def check_single_file(family, path, folder, want):
    """The whole pipeline where diffusers reads it from one file, else the denoiser and the autoencoder."""
    if family.name == "lumina_next":
        return by_names(family, path, folder, want)
    kind = type(DiffusionPipeline.from_pretrained(folder))
    if family.name in ("sd1", "sd2", "sdxl"):
        pipeline = kind.from_single_file(str(path), config=str(folder), local_files_only=True, safety_checker=None)
        compare(f"{family.label} single file", draw(pipeline, family), want)
        return
    if family.name in ("flux", "lumina2"):
        patched(family)
    # diffusers 0.42.1 looks for Lumina 2's weights by the names with the prefix that it has just removed.
    alone = path.with_name("model_only.safetensors") if family.name == "lumina2" else path
    denoiser = type(family.denoiser).from_single_file(str(alone), config=str(folder), subfolder="transformer", local_files_only=True)
    vae = diffusers.AutoencoderKL.from_single_file(str(path), config=str(folder), subfolder="vae", local_files_only=True)
    pipeline = DiffusionPipeline.from_pretrained(folder, transformer=denoiser, vae=vae)
    compare(f"{family.label} single file, transformer", draw(pipeline, family), want)
    latent = torch.randn(1, family.vae.config.latent_channels, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        compare(f"{family.label} single file, autoencoder", vae.decode(latent).sample, family.vae.decode(latent).sample)


def renamed(state, table, denoiser):
    """kohya's names of a fused layer as PEFT's of diffusers' separate layers, with the scale in the factors."""
    out, modules = {}, dict(denoiser.named_modules())
    for original, source in table.items():
        name = "lora_unet_" + original.replace(".", "_")
        if f"{name}.lora_down.weight" not in state:
            continue
        down, up = state.pop(f"{name}.lora_down.weight"), state.pop(f"{name}.lora_up.weight")
        down = down * float(state.pop(f"{name}.alpha")) / down.shape[0]
        if source.tied:
            ups = [up] * len(source.paths)
        else:
            ups = [swap_halves(up)] if source.swap else up.split([modules[path].out_features for path in source.paths])
        for path, rows in zip(source.paths, ups):
            out |= {f"transformer.{path}.lora_A.weight": down.contiguous(), f"transformer.{path}.lora_B.weight": rows.contiguous()}
    assert not state, sorted(state)[:5]
    return out


def check_lora_by_peft(family, pipeline, path):
    """On a network whose class takes no adapters: peft's own layers around those that the file names."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    denoiser = copy.deepcopy(pipeline.transformer)
    assert not hasattr(denoiser, "add_adapter") and not hasattr(pipeline, "load_lora_weights"), "check diffusers' own way"
    state = renamed(load_file(path), lumina_next_layout(len(denoiser.layers)), denoiser)
    state = {k.removeprefix("transformer."): v for k, v in state.items()}
    targets = sorted({k.rsplit(".lora_", 1)[0] for k in state})
    rank = next(iter(v for k, v in state.items() if ".lora_A." in k)).shape[0]
    # The scale is in the factors.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), denoiser)
    result = set_peft_model_state_dict(denoiser, state)
    unexpected = list(getattr(result, "unexpected_keys", []))
    loaded = sum("default" in getattr(m, "lora_A", {}) for m in denoiser.modules())
    verdict(f"{family.name} LoRA modules by peft", loaded == len(targets) and not unexpected, f"{loaded} of {len(targets)}")
    io = load_file(FIXTURES / family.fixture / "io.safetensors")
    with torch.no_grad():
        compare(f"{family.name} LoRA output", forward_next(denoiser, io)["out"], io["out_with_lora"])


def check_lora(family, pipeline, path):
    if family.name == "lumina_next":
        return check_lora_by_peft(family, pipeline, path)
    io, state = load_file(FIXTURES / family.fixture / "io.safetensors"), load_file(path)
    wanted = sum(key.endswith("lora_down.weight") for key in state)
    if family.name == "flux":
        sizes = {"dims=[3072, 3072, 3072, 12288]": "dims=[16, 16, 16, 64]"}
        lora_pipeline._convert_kohya_flux_lora_to_diffusers = resized(
            lora_conversion_utils._convert_kohya_flux_lora_to_diffusers, sizes
        )
    dual = len(getattr(family.denoiser.config, "dual_attention_layers", ()))
    table = {"sd3": lambda: sd3_layout(LAYERS, dual), "lumina2": lambda: lumina2_table(family.denoiser)}.get(family.name)
    source = renamed(state, table(), family.denoiser) if table else str(path)
    # A fused layer is several of diffusers'.
    fused = {"sd3": 4 * 2, "sd35m": 5 * 2, "flux": 2 * 2 + 2 * 3, "flux_schnell": 4 * 2 + 3, "lumina2": 4 * 2}
    fused = fused.get(family.label, 0)
    pipeline.load_lora_weights(source)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    loaded = sum("default_0" in getattr(m, "lora_A", {}) for m in denoiser.modules())
    verdict(f"{family.label} LoRA modules", loaded == wanted + fused, f"{loaded} of {wanted + fused}")
    x = dict(io)
    call = {
        "sd1": sd2_predict,
        "sd2": sd2_predict,
        "sdxl": lambda m, s, x: sdxl_predict(m, s, x),
        "sd3": lambda m, s, x: m(s, x["context"], x["pooled"], x["timesteps"]).sample,
        "flux": lambda m, s, x: unpack(
            flux_predict(m, s, x["sigmas"], x["context"], x["pooled"], x.get("guidance")), *s.shape[-2:]
        ),
        "lumina2": lambda m, s, x: lumina_predict(m, s, x["sigmas"], x["context"], x["context_mask"]),
    }[family.name]
    with torch.no_grad():
        compare(f"{family.label} LoRA output", call(denoiser, x["sample"], x), io["out_with_lora"])


def check_text_lora(family, pipeline, path):
    """Layers of each part that a LoRA of text encoders names, and those that are loaded."""
    pipeline.unload_lora_weights()
    names = {key.split(".")[0] for key in load_file(path)}
    pipeline.load_lora_weights(str(path))
    parts = {"lora_unet_": pipeline.unet, "lora_te_": pipeline.text_encoder, "lora_te1_": pipeline.text_encoder}
    parts["lora_te2_"] = getattr(pipeline, "text_encoder_2", None)
    for prefix, part in parts.items():
        wanted = sum(name.startswith(prefix) for name in names)
        if wanted:
            loaded = sum("default_0" in getattr(m, "lora_A", {}) for m in part.modules())
            verdict(f"{family.label} LoRA with text, {prefix}*", loaded == wanted, f"{loaded} of {wanted}")


def check(pipe, family, folder):
    print(family.label)
    whole, lora, text_lora = documents(pipe, family, folder)
    saved = DiffusionPipeline.from_pretrained(whole / "diffusers")
    want = draw(reference(family, saved), family)
    compare(f"{family.label} Diffusers folder", draw(saved, family), want)
    check_tokenizers(saved, family.label)
    check_single_file(family, whole / "single_file.safetensors", whole / "diffusers", want)
    check_lora(family, saved, lora)
    if text_lora:
        check_text_lora(family, saved, text_lora)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipe")
    parser.add_argument("--only")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for family in families():
            if args.only in (None, family.label):
                check(args.pipe, family, (args.keep or Path(scratch)).resolve() / family.label)
    print("verdict:", "FAIL (" + ", ".join(failures) + ")" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
