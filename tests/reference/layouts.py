"""The authors' names of the transformers' weights, as tables from them to diffusers' names.

A table maps an original module (or tensor) to a `Source`: the diffusers modules (or tensors)
whose rows it holds one after the other, and how. The relation is linear, so gradients of
diffusers' weights turn into gradients of the original weights in the same way.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Source:
    paths: tuple
    # (shift, scale) here, (scale, shift) in diffusers.
    swap: bool = False
    # One weight here, several equal copies in diffusers: their gradients add up.
    tied: bool = False


def one(path, **how):
    return Source((path,), **how)


def several(prefix, *names):
    return Source(tuple(prefix + name for name in names))


def swap_halves(tensor):
    return torch.cat(tensor.chunk(2)[::-1])


def tensors(table, names):
    """The table by tensors instead of modules, for those in `names` (diffusers')."""
    out = {}
    for original, source in table.items():
        leaves = [""] if source.paths[0] in names else [".weight", ".bias"]
        for leaf in leaves:
            paths = tuple(path + leaf for path in source.paths)
            if paths[0] in names:
                out[original + leaf] = Source(paths, source.swap, source.tied)
    used = [path for source in out.values() for path in source.paths]
    assert sorted(used) == sorted(names), sorted(set(used) ^ set(names))[:8]
    return out


def to_original(table, state, gradients=False):
    out = {}
    for name, source in tensors(table, set(state)).items():
        parts = [state[path] for path in source.paths]
        if source.tied:
            assert gradients or all(torch.equal(part, parts[0]) for part in parts)
            out[name] = sum(parts) if gradients else parts[0]
        else:
            joined = torch.cat(parts) if len(parts) > 1 else parts[0]
            out[name] = swap_halves(joined) if source.swap else joined
    return out


def to_diffusers(table, original, like):
    """`like` holds diffusers' tensors, for their number of rows."""
    out = {}
    for name, source in tensors(table, set(like)).items():
        value = swap_halves(original[name]) if source.swap else original[name]
        rows = [like[path].shape[0] for path in source.paths]
        parts = [value] * len(rows) if source.tied else value.split(rows) if len(rows) > 1 else [value]
        out.update(zip(source.paths, parts))
    return out


def embedder(original, first, second, diffusers):
    return {f"{original}.{first}": one(f"{diffusers}.linear_1"), f"{original}.{second}": one(f"{diffusers}.linear_2")}


def sd3(layers, dual=0):
    """SD3 and SD3.5: `dual` counts the leading blocks with a second attention of the image."""
    table = {
        "pos_embed": one("pos_embed.pos_embed"),
        "x_embedder.proj": one("pos_embed.proj"),
        **embedder("t_embedder", "mlp.0", "mlp.2", "time_text_embed.timestep_embedder"),
        **embedder("y_embedder", "mlp.0", "mlp.2", "time_text_embed.text_embedder"),
        "context_embedder": one("context_embedder"),
        "final_layer.linear": one("proj_out"),
        "final_layer.adaLN_modulation.1": one("norm_out.linear", swap=True),
    }
    for i in range(layers):
        ours, theirs, last = f"joint_blocks.{i}.", f"transformer_blocks.{i}.", i == layers - 1
        x, context = ours + "x_block.", ours + "context_block."
        table |= {
            x + "attn.qkv": several(theirs + "attn.", "to_q", "to_k", "to_v"),
            x + "attn.proj": one(theirs + "attn.to_out.0"),
            x + "attn.ln_q": one(theirs + "attn.norm_q"),
            x + "attn.ln_k": one(theirs + "attn.norm_k"),
            x + "mlp.fc1": one(theirs + "ff.net.0.proj"),
            x + "mlp.fc2": one(theirs + "ff.net.2"),
            x + "adaLN_modulation.1": one(theirs + "norm1.linear"),
            context + "attn.qkv": several(theirs + "attn.", "add_q_proj", "add_k_proj", "add_v_proj"),
            context + "attn.ln_q": one(theirs + "attn.norm_added_q"),
            context + "attn.ln_k": one(theirs + "attn.norm_added_k"),
            context + "adaLN_modulation.1": one(theirs + "norm1_context.linear", swap=last),
        }
        if i < dual:
            table |= {
                x + "attn2.qkv": several(theirs + "attn2.", "to_q", "to_k", "to_v"),
                x + "attn2.proj": one(theirs + "attn2.to_out.0"),
                x + "attn2.ln_q": one(theirs + "attn2.norm_q"),
                x + "attn2.ln_k": one(theirs + "attn2.norm_k"),
            }
        if not last:
            table |= {
                context + "attn.proj": one(theirs + "attn.to_add_out"),
                context + "mlp.fc1": one(theirs + "ff_context.net.0.proj"),
                context + "mlp.fc2": one(theirs + "ff_context.net.2"),
            }
    return table


def flux(double, single):
    table = {
        **embedder("time_in", "in_layer", "out_layer", "time_text_embed.timestep_embedder"),
        **embedder("guidance_in", "in_layer", "out_layer", "time_text_embed.guidance_embedder"),
        **embedder("vector_in", "in_layer", "out_layer", "time_text_embed.text_embedder"),
        "txt_in": one("context_embedder"),
        "img_in": one("x_embedder"),
        "final_layer.linear": one("proj_out"),
        "final_layer.adaLN_modulation.1": one("norm_out.linear", swap=True),
    }
    for i in range(double):
        ours, theirs = f"double_blocks.{i}.", f"transformer_blocks.{i}."
        table |= {
            ours + "img_mod.lin": one(theirs + "norm1.linear"),
            ours + "txt_mod.lin": one(theirs + "norm1_context.linear"),
            ours + "img_attn.qkv": several(theirs + "attn.", "to_q", "to_k", "to_v"),
            ours + "txt_attn.qkv": several(theirs + "attn.", "add_q_proj", "add_k_proj", "add_v_proj"),
            ours + "img_attn.norm.query_norm.scale": one(theirs + "attn.norm_q.weight"),
            ours + "img_attn.norm.key_norm.scale": one(theirs + "attn.norm_k.weight"),
            ours + "txt_attn.norm.query_norm.scale": one(theirs + "attn.norm_added_q.weight"),
            ours + "txt_attn.norm.key_norm.scale": one(theirs + "attn.norm_added_k.weight"),
            ours + "img_attn.proj": one(theirs + "attn.to_out.0"),
            ours + "txt_attn.proj": one(theirs + "attn.to_add_out"),
            ours + "img_mlp.0": one(theirs + "ff.net.0.proj"),
            ours + "img_mlp.2": one(theirs + "ff.net.2"),
            ours + "txt_mlp.0": one(theirs + "ff_context.net.0.proj"),
            ours + "txt_mlp.2": one(theirs + "ff_context.net.2"),
        }
    for i in range(single):
        ours, theirs = f"single_blocks.{i}.", f"single_transformer_blocks.{i}."
        table |= {
            ours + "linear1": several(theirs, "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
            ours + "linear2": one(theirs + "proj_out"),
            ours + "modulation.lin": one(theirs + "norm.linear"),
            ours + "norm.query_norm.scale": one(theirs + "attn.norm_q.weight"),
            ours + "norm.key_norm.scale": one(theirs + "attn.norm_k.weight"),
        }
    return table


def lumina_block(ours, theirs, modulated):
    """What the blocks of Lumina 2 and Lumina-Next have in common."""
    table = {
        ours + "attention_norm1": one(theirs + ("norm1.norm" if modulated else "norm1")),
        ours + "attention_norm2": one(theirs + "norm2"),
        ours + "ffn_norm1": one(theirs + "ffn_norm1"),
        ours + "ffn_norm2": one(theirs + "ffn_norm2"),
        **{ours + f"feed_forward.w{k}": one(theirs + f"feed_forward.linear_{k}") for k in (1, 2, 3)},
    }
    if modulated:
        table[ours + "adaLN_modulation.1"] = one(theirs + "norm1.linear")
    return table


def lumina_ends(x_embedder):
    return {
        "x_embedder": one(x_embedder),
        "cap_embedder.0": one("time_caption_embed.caption_embedder.0"),
        "cap_embedder.1": one("time_caption_embed.caption_embedder.1"),
        **embedder("t_embedder", "mlp.0", "mlp.2", "time_caption_embed.timestep_embedder"),
        "final_layer.adaLN_modulation.1": one("norm_out.linear_1"),
        "final_layer.linear": one("norm_out.linear_2"),
    }


def lumina2(layers, refiners):
    table = lumina_ends("x_embedder")
    for group, count in [("noise_refiner", refiners), ("context_refiner", refiners), ("layers", layers)]:
        for i in range(count):
            block = f"{group}.{i}."
            table |= lumina_block(block, block, group != "context_refiner") | {
                block + "attention.qkv": several(block + "attn.", "to_q", "to_k", "to_v"),
                block + "attention.out": one(block + "attn.to_out.0"),
                block + "attention.q_norm": one(block + "attn.norm_q"),
                block + "attention.k_norm": one(block + "attn.norm_k"),
            }
    return table


def lumina_next(layers):
    table = lumina_ends("patch_embedder.proj") | {"pad_token": one("pad_token")}
    for i in range(layers):
        block = f"layers.{i}."
        table |= lumina_block(block, block, True) | {
            block + "attention_y_norm": one(block + "norm1_context"),
            block + "attention.gate": one(block + "gate"),
            block + "attention.wq": Source((block + "attn1.to_q", block + "attn2.to_q"), tied=True),
            block + "attention.wk": one(block + "attn1.to_k"),
            block + "attention.wv": one(block + "attn1.to_v"),
            block + "attention.wk_y": one(block + "attn2.to_k"),
            block + "attention.wv_y": one(block + "attn2.to_v"),
            block + "attention.wo": one(block + "attn2.to_out.0"),
            block + "attention.q_norm": Source((block + "attn1.norm_q", block + "attn2.norm_q"), tied=True),
            block + "attention.k_norm": one(block + "attn1.norm_k"),
            block + "attention.ky_norm": one(block + "attn2.norm_k"),
        }
    return table
