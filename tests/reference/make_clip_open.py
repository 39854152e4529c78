"""Tiny OpenCLIP-shaped text encoders: bigG with projection (clip_g) and H without (clip_h).

Both have the exact gelu and pad with 0, unlike CLIP-L.
"""

import re

from common import FIXTURES, clip_key, randomise, save_tensors
from network import record, same, write_transformers

import torch

BOS, EOS, ADDED = 62, 63, 64
CONFIG = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    # Two ids above EOS, as textual inversion adds them: EOS is then not the largest id.
    vocab_size=66,
    max_position_embeddings=77,
    projection_dim=16,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=0,
)


def make_ids(seed):
    """BOS, tokens, EOS, zeros; the first row has an added token before its EOS, the second is full."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.zeros(2, 77, dtype=torch.int64)
    ids[:, 0] = BOS
    ids[0, 1:9] = torch.randint(1, BOS, (8,), generator=g)
    ids[0, 4], ids[0, 9] = ADDED + 1, EOS
    ids[1, 1:76] = torch.randint(1, BOS, (75,), generator=g)
    ids[1, 76] = EOS
    return ids


def open_clip_name(key):
    """The OpenCLIP name of a key below `text_model.` that is not part of a fused projection."""
    key = key.replace("embeddings.token_embedding.weight", "token_embedding.weight")
    key = key.replace("embeddings.position_embedding.weight", "positional_embedding")
    key = key.replace("final_layer_norm", "ln_final").replace("encoder.layers.", "transformer.resblocks.")
    key = key.replace("self_attn.out_proj", "attn.out_proj").replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
    return re.sub(r"layer_norm([12])", r"ln_\1", key)


def to_open_clip(state):
    """q, k and v in one matrix; the projection is applied from the right, so it is transposed."""
    out = {}
    for key, value in state.items():
        key = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            out["text_projection"] = value.T
        elif m := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", key):
            parts = [state["text_model." + key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            out[f"transformer.resblocks.{m[1]}.attn.in_proj_{m[2]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", key):
            out[open_clip_name(key)] = value
    return out


def forward(model, x):
    result = model(input_ids=x["input_ids"], output_hidden_states=True)
    last, hidden = result.last_hidden_state, result.hidden_states
    depth = CONFIG["num_hidden_layers"]
    assert len(hidden) == depth + 1
    out = {"last": last, "penultimate": hidden[depth - 1]}
    if hasattr(result, "text_embeds"):
        out["pooled"] = result.text_embeds
    return out


def make_g():
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = FIXTURES / "clip_g"
    model = randomise(CLIPTextModelWithProjection(CLIPTextConfig(**CONFIG)), seed=121)
    write_transformers(model, folder)
    state = model.state_dict()
    prefix = "conditioner.embedders.1.model."
    renamed = {prefix + k: v for k, v in to_open_clip(state).items()}
    renamed[prefix + "logit_scale"] = torch.tensor(4.6052)
    save_tensors(folder / "open_clip.safetensors", renamed)
    same({k: v for k, v in convert_open_clip_checkpoint(model, dict(renamed), prefix).items()}, state)

    inputs = {"input_ids": make_ids(221)}
    # SDXL reads these two; the last layer and the final norm only matter to `pooled`.
    io = record(model, inputs, forward, [], ["penultimate", "pooled"], seed=222, zero=["k_proj.bias"])
    expected = torch.stack([io["last"][0, 9], io["last"][1, 76]]) @ state["text_projection.weight"].T
    torch.testing.assert_close(io["pooled"], expected)
    save_tensors(folder / "io.safetensors", io)


def make_h():
    """As SD2 uses it: a folder holds one layer less than OpenCLIP trained, so `last` is what is read."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = FIXTURES / "clip_h"
    model = randomise(CLIPTextModel(CLIPTextConfig(**CONFIG)), seed=122)
    write_transformers(model, folder, keys=lambda key: [clip_key(key)])

    def rename(grads):
        return {clip_key(k): v for k, v in grads.items()}

    inputs = {"input_ids": make_ids(223)}
    io = record(model, inputs, forward, [], ["last"], seed=224, rename=rename, zero=["k_proj.bias"])
    save_tensors(folder / "io.safetensors", io)


def main():
    make_g()
    make_h()


if __name__ == "__main__":
    main()
