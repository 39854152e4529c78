"""Tiny Gemma 1 and 2 as Lumina uses them: hidden_states[-2] under a right-padding mask."""

from common import FIXTURES, randomise, save_tensors
from network import record, write_transformers

import torch

TOKENS, REAL = 24, (24, 9)
CONFIG = dict(
    vocab_size=40,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    # Heads times their width (32) is not the hidden size.
    head_dim=8,
    rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    max_position_embeddings=256,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
    attn_implementation="eager",
)


def tiny(version):
    from transformers import Gemma2Config, Gemma2Model, GemmaConfig, GemmaModel

    if version == 1:
        config = GemmaConfig(**CONFIG, num_key_value_heads=1, hidden_activation="gelu_pytorch_tanh", hidden_act="gelu_pytorch_tanh")
        return randomise(GemmaModel(config), seed=141)
    # Without the cap, as everyone runs it (the usual fused attention ignores it); scale as published, head_dim^-0.5.
    config = Gemma2Config(**CONFIG, num_key_value_heads=2, query_pre_attn_scalar=8, attn_logit_softcapping=None)
    return randomise(Gemma2Model(config), seed=142)


def hidden(model, x):
    """The stream before the last layer: no final norm. Padding is set to zero: it means nothing."""
    states = model(input_ids=x["input_ids"], attention_mask=x["mask"], output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == CONFIG["num_hidden_layers"] + 1
    return states[-2] * x["mask"][..., None].to(states[-2].dtype)


def forward(model, x):
    out = {"out": hidden(model, x)}
    if model.config.model_type == "gemma2":
        # The cap is read from each attention layer; 50 is what the published config says.
        for cap in (50.0, None):
            for layer in model.layers:
                layer.self_attn.attn_logit_softcapping = cap
            if cap:
                out["out_softcap"] = hidden(model, x)
    return out


def make(version):
    folder = FIXTURES / f"gemma{version}"
    model = tiny(version)
    # gemma-2b's own files have the prefix, the text encoder folders of Lumina 2 do not.
    prefix = "model." if version == 1 else ""
    write_transformers(model, folder, keys=lambda key: [prefix + key])

    g = torch.Generator().manual_seed(240 + version)
    ids = torch.randint(4, 40, (2, TOKENS), generator=g)
    mask = torch.zeros(2, TOKENS, dtype=torch.int64)
    ids[:, 0] = 2
    for row, real in enumerate(REAL):
        ids[row, real:], mask[row, :real] = 0, 1
    io = record(model, {"input_ids": ids, "mask": mask}, forward, [], ["out"], seed=242 + version)
    # Nothing of the last layer or the final norm is read.
    assert not any(k.startswith(("grad.norm", "grad.layers.2.")) for k in io)
    if version == 2:
        assert (io["out"] - io["out_softcap"]).abs().max() > 1e-3
    save_tensors(folder / "io.safetensors", io)


def main():
    make(1)
    make(2)


if __name__ == "__main__":
    main()
