"""Tiny T5 v1.1 encoder: gated gelu, relative positions, with and without a mask.

144 tokens, so that distances beyond the last bucket (91 and up) occur.
"""

from common import FIXTURES, randn, randomise, save_tensors
from network import record, write_transformers

import torch

OUT = FIXTURES / "t5"
TOKENS, REAL = 144, (131, 7)


def tiny_t5():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=48,
        d_model=16,
        # Heads times their width need not be d_model.
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
    return randomise(T5EncoderModel(config), seed=131)


def forward(model, x):
    """`out` lets padding take part, as SD3 and FLUX do by default; `out_masked` does not."""
    return {
        "out": model(input_ids=x["input_ids"]).last_hidden_state,
        "out_masked": model(input_ids=x["input_ids"], attention_mask=x["mask"]).last_hidden_state,
    }


def main():
    model = tiny_t5()
    assert model.config.dense_act_fn == "gelu_new" and model.config.is_gated_act
    # Published files hold the embedding twice.
    write_transformers(
        model,
        OUT,
        keys=lambda key: ["shared.weight", "encoder.embed_tokens.weight"] if "shared" in key or "embed_tokens" in key else [key],
    )
    g = torch.Generator().manual_seed(231)
    ids = torch.randint(2, 48, (2, TOKENS), generator=g)
    mask = torch.zeros(2, TOKENS, dtype=torch.int64)
    for row, real in enumerate(REAL):
        ids[row, real - 1], ids[row, real:], mask[row, :real] = 1, 0, 1
    io = record(model, {"input_ids": ids, "mask": mask}, forward, [], ["out", "out_masked"], seed=232)
    save_tensors(OUT / "io.safetensors", io)


if __name__ == "__main__":
    main()
