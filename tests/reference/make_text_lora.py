"""LoRA runs that train text encoders: CLIP-L beside SD1, OpenCLIP-H beside SD2, CLIP-L and bigG beside SDXL, these and T5
beside SD3, Gemma beside Lumina.

The replay has captions (UTF-8, filled up with zeros) in place of embeddings; their ids are
those of clip_tokens.json, t5_tokens.json and gemma_small/tokens.json. The encoders have the published vocabularies,
with a table that repeats its first ROWS rows: only those are stored. Adapters are on all
layers of the encoders and on a few of the denoiser, which a run takes from the file. Gemma's last layer has none:
its output is read before it, so that nothing of it would ever learn.
"""

import copy
import json

from common import CONTEXT, FIXTURES, clip_key, randn, randomise, save_tensors, spread, tiny_unet
from layouts import sd3
from make_flow_lora import ALPHA, RANK, FusedLora, Part, noisy as flow_noisy
from make_lora_trajectory import schedule
from make_lumina import CAPTION, lumina2_table, predict as lumina_predict, tiny_lumina2
from make_sd2_lora import CONTEXT as SD2_CONTEXT, tiny_sd2_unet, velocity as ddpm_velocity
from make_sd3 import LAYERS, tiny_sd3
from make_sdxl_unet import original_name, tiny_sdxl_unet
from network import cast
from training import check, rows, seed_factors, train

import torch

ROWS, TOKENS = 64, 24
TIMES = torch.tensor([3, 871, 120, 555, 999, 60, 333, 742], dtype=torch.int64)
CAPTIONS = [
    "a photo of a cat",
    "sks dog",
    "",
    "a cute shiba inu, 1girl, masterpiece!!",
    "a",
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9 co\u00f6perate",
    "!",
    "hello,world;foo.bar-baz_qux",
]


def clip(width, activation, projection, seed):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=49408,
        projection_dim=projection or width,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return repeated((CLIPTextModelWithProjection if projection else CLIPTextModel)(config), seed)


def t5(width, seed):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32128,
        d_model=width,
        num_heads=2,
        d_kv=6,
        d_ff=24,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        dropout_rate=0.0,
        tie_word_embeddings=False,
    )
    return repeated(T5EncoderModel(config), seed)


def gemma(width, seed):
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=1100,
        hidden_size=width,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=None,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="eager",
    )
    return repeated(Gemma2Model(config), seed)


def repeated(model, seed):
    """Random values; row i of the token table is that of i mod ROWS."""
    randomise(model, seed)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(table[torch.arange(len(table)) % ROWS])
    return model


def published(model):
    """Weights by their published names, with the first rows of the table."""
    out = {}
    for key, value in model.state_dict().items():
        if "CLIP" in type(model).__name__:
            key = key if key.startswith("text_projection") else clip_key(key)
        elif key == "encoder.embed_tokens.weight":
            continue
        table = key.endswith(("token_embedding.weight", "shared.weight", "embed_tokens.weight"))
        out[key] = value[:ROWS] if table else value
    return out


def ids_of(file, captions, length, pad):
    """[N, length]; what the tokenizer of `file` gives, filled up."""
    listed = json.loads((FIXTURES / file).read_text())
    table = {entry["text"]: entry["ids"] for entry in listed.get("prompts", listed.get("texts"))}
    ids = [table[caption] for caption in captions]
    assert max(map(len, ids)) <= length
    return torch.tensor([row + [pad] * (length - len(row)) for row in ids])


class Text:
    """A text encoder with its adapters' prefix and its ids."""

    def __init__(self, prefix, model, ids):
        self.prefix, self.model, self.ids = prefix, model.requires_grad_(False), ids

    def attach(self, factors, dtype):
        """Adapters of all linear layers inside the encoder's layers."""
        model, modules = self.model.to(dtype), dict(self.model.named_modules())
        for path, layer in modules.items():
            unread = "Gemma" in type(model).__name__ and path.startswith(f"layers.{model.config.num_hidden_layers - 1}.")
            if not isinstance(layer, torch.nn.Linear) or path == "text_projection" or unread:
                continue
            key = clip_key(path) if "CLIP" in type(model).__name__ else path
            name = self.prefix + "_" + key.replace(".", "_")
            down = torch.nn.Parameter(torch.zeros(RANK, layer.in_features, dtype=dtype))
            up = torch.nn.Parameter(torch.zeros(layer.out_features, RANK, dtype=dtype))
            factors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            parent, _, child = path.rpartition(".")
            setattr(modules[parent], child, Part(layer, down, up, torch.arange(layer.out_features)))


def attach_unet(model, paths, rename, factors, dtype):
    modules = dict(model.requires_grad_(False).to(dtype).named_modules())
    for path in paths:
        layer = modules[path]
        name = "lora_unet_" + rename(path + ".weight").removesuffix(".weight").replace(".", "_")
        down = torch.nn.Parameter(torch.zeros(RANK, layer.in_features, dtype=dtype))
        up = torch.nn.Parameter(torch.zeros(layer.out_features, RANK, dtype=dtype))
        factors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        parent, _, child = path.rpartition(".")
        setattr(modules[parent], child, Part(layer, down, up, torch.arange(layer.out_features)))


def unet_layers():
    return [f"mid_block.attentions.0.transformer_blocks.0.attn{k}.{x}" for k in (1, 2) for x in ("to_q", "to_v")]


def states(text, ids):
    """Hidden states before the last layer, and the pooled vector where there is one."""
    out = text(input_ids=ids, output_hidden_states=True)
    pooled = out.text_embeds if hasattr(out, "text_embeds") else getattr(out, "pooler_output", None)
    return out, pooled


def sd1_output(model, texts, sample, x):
    context = states(texts[0].model, x["ids.0"])[0].last_hidden_state
    return model(sample, x["timesteps"], context).sample


def sdxl_output(model, texts, sample, x):
    (l, _), (g, pooled) = (states(t.model, x[f"ids.{i}"]) for i, t in enumerate(texts))
    context = torch.cat([l.hidden_states[-2], g.hidden_states[-2]], -1)
    added = {"text_embeds": pooled, "time_ids": x["time_ids"]}
    return model(sample, x["timesteps"], context, added_cond_kwargs=added).sample


def sd3_output(model, texts, sample, x):
    (l, first), (g, second), (t, _) = (states(text.model, x[f"ids.{i}"]) for i, text in enumerate(texts))
    both = torch.cat([l.hidden_states[-2], g.hidden_states[-2]], -1)
    t = t.last_hidden_state
    both = torch.nn.functional.pad(both, (0, t.shape[-1] - both.shape[-1]))
    return model(sample, torch.cat([both, t], 1), torch.cat([first, second], -1), x["timesteps"]).sample


def lumina_output(model, texts, sample, x):
    """The stream before Gemma's last layer, under a mask."""
    ids = x["ids.0"]
    mask = x["mask.0"]
    states = texts[0].model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    return lumina_predict(model, sample, x["sigmas"], states[-2], mask)


def ddpm_noisy(x):
    return schedule().add_noise(x["latents"], x["noise"], x["timesteps"])


def make(name, denoiser, texts, output, noisy, target, replay, seed, size, encoders):
    folder = FIXTURES / f"lora_trajectory_text_{name}"
    raw = [caption.encode() for caption in CAPTIONS]
    stored = torch.zeros(len(raw), max(map(len, raw)), dtype=torch.int64)
    for row, line in zip(stored, raw):
        row[: len(line)] = torch.tensor(list(line), dtype=torch.int64)
    save_tensors(folder / "replay.safetensors", {**replay, "captions": stored})
    ids = {f"ids.{i}": text.ids for i, text in enumerate(texts)}
    ids |= {f"mask.{i}": (text.ids != 0).to(torch.int64) for i, text in enumerate(texts)}

    def run(dtype):
        copies, factors = [copy.deepcopy(text) for text in texts], {}
        model = denoiser(copy.deepcopy, factors, dtype)
        for text in copies:
            text.attach(factors, dtype)
        start = {k: torch.empty(v.shape) for k, v in factors.items()}
        seed_factors(start, seed, size)
        for key, factor in factors.items():
            factor.data.copy_(start[key])
        initial = {k: v.detach().clone() for k, v in factors.items()}

        def loss_of(x):
            return torch.nn.functional.mse_loss(output(model, copies, noisy(x), x), target(x))

        return factors, initial, train(factors, cast({**replay, **ids}, dtype), loss_of)

    factors, initial, result = run(torch.float32)
    double, _, exact = run(torch.float64)
    check((result, factors), (exact, {k: v.detach() for k, v in double.items()}), initial)
    alphas = {f"{key.removesuffix('.lora_up.weight')}.alpha": torch.tensor(ALPHA) for key in factors if "lora_up" in key}
    for text in texts:
        mine = [k for k in factors if k.startswith(text.prefix + "_")]
        # SDXL does not read the last layer of CLIP-L.
        moved = sum(float((factors[k] - initial[k]).detach().abs().max()) > 1e-3 for k in mine)
        assert moved >= len(mine) // 2, (text.prefix, moved, len(mine))
    losses, first = result
    losses |= {"grad0." + k: first[k] for k in spread(sorted(first), 12)}
    save_tensors(folder / "init.safetensors", initial | alphas)
    save_tensors(folder / "final.safetensors", factors | alphas)
    save_tensors(folder / "losses.safetensors", losses)
    for file, text in zip(encoders, texts):
        save_tensors(folder / f"{file}.safetensors", published(text.model))
    print("   ", [round(v, 4) for v in losses["losses"].tolist()])


def on_unet(model, rename):
    def attach(copied, factors, dtype):
        unet = copied(model)
        attach_unet(unet, unet_layers(), rename, factors, dtype)
        return unet

    return attach


def on_sd3(copied, factors, dtype):
    lora = FusedLora(copied(tiny_sd3()).to(dtype), sd3(LAYERS), lambda n: n.startswith("joint_blocks.1.x_block."))
    factors |= lora.factors
    return lora.model


def on_lumina(copied, factors, dtype):
    model = copied(tiny_lumina2()).to(dtype)
    lora = FusedLora(model, lumina2_table(model), lambda n: n.startswith("layers.1.attention"))
    factors |= lora.factors
    return lora.model


def main():
    clip_ids = ids_of("clip_tokens.json", CAPTIONS, 77, 49407)
    # OpenCLIP pads with 0.
    open_ids = ids_of("clip_tokens.json", CAPTIONS, 77, 0)
    t5_ids = ids_of("t5_tokens.json", CAPTIONS, TOKENS, 0)

    replay = {"latents": randn(8, 4, 8, 8, seed=651), "noise": randn(8, 4, 8, 8, seed=652), "timesteps": TIMES}
    texts = [Text("lora_te", clip(CONTEXT, "quick_gelu", None, 655), clip_ids)]
    make("sd1", on_unet(tiny_unet(), str), texts, sd1_output, ddpm_noisy, lambda x: x["noise"], replay, 656, 1.0, ["clip_l"])

    replay = {"latents": randn(8, 4, 8, 8, seed=681), "noise": randn(8, 4, 8, 8, seed=682), "timesteps": TIMES}
    texts = [Text("lora_te", clip(SD2_CONTEXT, "gelu", None, 685), open_ids)]
    make("sd2", on_unet(tiny_sd2_unet(), str), texts, sd1_output, ddpm_noisy, ddpm_velocity, replay, 686, 1.0, ["clip_h"])

    sizes = [[96, 64, 0, 0, 96, 64], [128, 64, 0, 8, 96, 64], [96, 96, 16, 0, 96, 64], [64, 48, 0, 0, 96, 64]]
    replay = {
        "latents": randn(8, 4, 12, 8, seed=661),
        "noise": randn(8, 4, 12, 8, seed=662),
        "timesteps": TIMES,
        "time_ids": torch.tensor(sizes * 2, dtype=torch.float32),
    }
    texts = [
        Text("lora_te1", clip(4, "quick_gelu", None, 665), clip_ids),
        Text("lora_te2", clip(8, "gelu", 10, 666), open_ids),
    ]
    unet = on_unet(tiny_sdxl_unet(), original_name)
    make("sdxl", unet, texts, sdxl_output, ddpm_noisy, lambda x: x["noise"], replay, 667, 1.0, ["clip_l", "clip_g"])

    sigmas = torch.tensor([0.0625, 0.875, 0.25, 0.5, 0.96875, 0.125, 0.375, 0.75])
    replay = {
        "latents": randn(8, 16, 8, 6, seed=671),
        "noise": randn(8, 16, 8, 6, seed=672),
        "sigmas": sigmas,
        "timesteps": 1000 * sigmas,
    }
    texts = [
        Text("lora_te1", clip(4, "quick_gelu", None, 675), clip_ids),
        Text("lora_te2", clip(8, "gelu", 8, 676), open_ids),
        Text("lora_te3", t5(20, 677), t5_ids),
    ]
    velocity = lambda x: x["noise"] - x["latents"]  # noqa: E731
    make("sd3", on_sd3, texts, sd3_output, flow_noisy, velocity, replay, 678, 1.0, ["clip_l", "clip_g", "t5"])

    replay = {
        "latents": randn(8, 16, 8, 6, seed=681),
        "noise": randn(8, 16, 8, 6, seed=682),
        "sigmas": sigmas,
        "timesteps": 1000 * sigmas,
    }
    texts = [Text("lora_te", gemma(CAPTION, 685), ids_of("gemma_small/tokens.json", CAPTIONS, TOKENS, 0))]
    backwards = lambda x: x["latents"] - x["noise"]  # noqa: E731
    make("lumina2", on_lumina, texts, lumina_output, flow_noisy, backwards, replay, 688, 1.6, ["gemma"])


if __name__ == "__main__":
    main()
