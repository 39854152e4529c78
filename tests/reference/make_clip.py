"""Tiny CLIP-L text encoder: weights (below diffusers_dir/text_encoder), outputs, gradients."""

from common import CLIP_CONFIG, DIFFUSERS_DIR, FIXTURES, clip_key, randn, save_json, save_tensors, tiny_clip

import torch


def make_ids():
    """BOS, tokens, EOS, padded with EOS as CLIP-L does; one short and one full prompt."""
    g = torch.Generator().manual_seed(201)
    bos, eos = CLIP_CONFIG["bos_token_id"], CLIP_CONFIG["eos_token_id"]
    ids = torch.full((2, 77), eos, dtype=torch.int64)
    ids[:, 0] = bos
    ids[0, 1:9] = torch.randint(0, bos, (8,), generator=g)
    ids[1, 1:76] = torch.randint(0, bos, (75,), generator=g)
    return ids


def main():
    model = tiny_clip()
    out = DIFFUSERS_DIR / "text_encoder"
    state = {clip_key(k): v for k, v in model.state_dict().items()}
    assert len(state) == 4 + 16 * CLIP_CONFIG["num_hidden_layers"], len(state)
    save_tensors(out / "model.safetensors", state)
    save_json(
        out / "config.json",
        dict(
            CLIP_CONFIG,
            architectures=["CLIPTextModel"],
            model_type="clip_text_model",
            attention_dropout=0.0,
            dropout=0.0,
            initializer_factor=1.0,
            initializer_range=0.02,
            torch_dtype="float32",
        ),
    )

    ids = make_ids()
    result = model(input_ids=ids, output_hidden_states=True)
    last, hidden = result.last_hidden_state, result.hidden_states
    inner = getattr(model, "text_model", model)
    depth = CLIP_CONFIG["num_hidden_layers"]
    assert len(hidden) == depth + 1
    skip2 = inner.final_layer_norm(hidden[depth - 1])
    # hidden[depth-1] must be the raw output of the last layer but one: running the
    # last layer and the final norm on it has to give `last`.
    mask = torch.full((77, 77), float("-inf")).triu(1)[None, None]
    again = inner.encoder.layers[depth - 1](hidden[depth - 1], attention_mask=mask)
    again = again[0] if isinstance(again, tuple) else again
    torch.testing.assert_close(inner.final_layer_norm(again), last, rtol=1e-5, atol=1e-5)

    # Padding hidden as keys: 1 up to the first EOS. Only states at padding change, attention being causal.
    mask = (torch.arange(77)[None] <= torch.tensor([[9], [76]])).to(torch.int64)
    masked = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(masked[0, :10], last[0, :10], rtol=1e-5, atol=1e-5)
    assert (masked[0, 10:] - last[0, 10:]).abs().max() > 0.1

    cotangent = randn(2, 77, CLIP_CONFIG["hidden_size"], seed=202)
    (last * cotangent).sum().backward()
    tensors = {
        "input_ids": ids,
        "last": last,
        "mask": mask,
        "last_masked": masked,
        "skip2": skip2,
        "penultimate": hidden[depth - 1],
        "pooled": result.pooler_output,
        "cotangent": cotangent,
    }
    torch.testing.assert_close(result.pooler_output, torch.stack([last[0, 9], last[1, 76]]))
    for name, parameter in model.named_parameters():
        tensors["grad." + clip_key(name)] = parameter.grad
    save_tensors(FIXTURES / "clip_l" / "io.safetensors", tensors)

    # The written files must load in transformers and give the same output.
    from transformers import CLIPTextModel

    loaded = CLIPTextModel.from_pretrained(out).eval()
    torch.testing.assert_close(loaded(input_ids=ids).last_hidden_state, last, rtol=0, atol=0)


if __name__ == "__main__":
    main()
