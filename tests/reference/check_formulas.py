"""The transformers once more, from their published formulas, on the authors' weight names.

Independent of diffusers: plain functions over `original.safetensors`, which have to give the
`out` of the same folder's `io.safetensors`. This is what shows that the fixtures hold the
authors' networks and not only diffusers' idea of them. Symbols and order of the chunks are
those of the papers (Esser et al. 2024; Black Forest Labs 2024; Qin et al. 2025; Zhuo et al. 2024).
"""

from common import FIXTURES

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Weights:
    def __init__(self, name):
        weights = load_file(FIXTURES / name / "original.safetensors")
        self.weights = {k.removeprefix("model.diffusion_model."): v for k, v in weights.items()}

    def __getitem__(self, key):
        return self.weights[key]

    def has(self, key):
        return key in self.weights

    def linear(self, name, x):
        return F.linear(x, self[name + ".weight"], self.weights.get(name + ".bias"))

    def rms(self, key, x, eps):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self[key]

    def mlp(self, name, first, second, x, act=F.silu):
        return self.linear(f"{name}.{second}", act(self.linear(f"{name}.{first}", x)))


def sinusoids(t, factor=1.0):
    angle = factor * t[:, None] * 10000.0 ** (-torch.arange(128) / 128)
    return torch.cat([angle.cos(), angle.sin()], -1)


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x, shift, scale):
    return norm(x) * (1 + scale[:, None]) + shift[:, None]


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(q, k, v, keys=None):
    """[B, H, S, d] each; `keys` [B, S] tells which may be seen."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if keys is not None:
        logits = logits.masked_fill(~keys[:, None, None, :], float("-inf"))
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def rotate(x, angles):
    """Adjacent pairs of the head's last axis turned by `angles` [B or 1, S, d/2]."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def axis_angles(ids, axes):
    """Position ids [B, S, len(axes)] to angles, axis after axis."""
    parts = [ids[..., i : i + 1] * 10000.0 ** (-2 * torch.arange(d // 2) / d) for i, d in enumerate(axes)]
    return torch.cat(parts, -1)


def unpatch(tokens, h, w, channels_first):
    """Features in the order (channel, row, column) or (row, column, channel) of each 2 x 2 patch."""
    b, _, f = tokens.shape
    grid = tokens.view(b, h // 2, w // 2, *((f // 4, 2, 2) if channels_first else (2, 2, f // 4)))
    order = (0, 3, 1, 4, 2, 5) if channels_first else (0, 5, 1, 3, 2, 4)
    return grid.permute(*order).reshape(b, f // 4, h, w)


def patch(x, channels_first):
    b, c, h, w = x.shape
    order = (0, 2, 4, 1, 3, 5) if channels_first else (0, 2, 4, 3, 5, 1)
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(*order).reshape(b, h * w // 4, 4 * c)


def places(h, w):
    return torch.stack(torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij"), -1).view(-1, 2)


def sd3(p, x, layers=2, count=2):
    h, w = x["sample"].shape[-2:]
    side = int(p["pos_embed"].shape[1] ** 0.5)
    top, left = (side - h // 2) // 2, (side - w // 2) // 2
    table = p["pos_embed"].view(side, side, -1)[top : top + h // 2, left : left + w // 2].flatten(0, 1)
    u = F.conv2d(x["sample"], p["x_embedder.proj.weight"], p["x_embedder.proj.bias"], stride=2)
    u = u.flatten(2).transpose(1, 2) + table
    c = p.mlp("t_embedder.mlp", 0, 2, sinusoids(x["timesteps"])) + p.mlp("y_embedder.mlp", 0, 2, x["pooled"])
    t = p.linear("context_embedder", x["context"])

    def qkv(name, n):
        q, k, v = (heads(part, count) for part in p.linear(name + ".qkv", n).chunk(3, -1))
        if p.has(name + ".ln_q.weight"):
            q, k = p.rms(name + ".ln_q.weight", q, 1e-6), p.rms(name + ".ln_k.weight", k, 1e-6)
        return q, k, v

    def close(name, stream, attention, m):
        _, _, gate1, shift2, scale2, gate2 = m[:6]
        stream = stream + gate1[:, None] * p.linear(name + "attn.proj", attention)
        if len(m) == 9:
            second = attend(*qkv(name + "attn2", modulate(before, m[6], m[7])))
            stream = stream + m[8][:, None] * p.linear(name + "attn2.proj", second)
        return stream + gate2[:, None] * p.mlp(name + "mlp", "fc1", "fc2", modulate(stream, shift2, scale2), gelu_tanh)

    for i in range(layers):
        image, text = f"joint_blocks.{i}.x_block.", f"joint_blocks.{i}.context_block."
        last = i == layers - 1
        before = u
        m = p.linear(image + "adaLN_modulation.1", F.silu(c)).chunk(9 if p.has(image + "attn2.qkv.weight") else 6, -1)
        n = p.linear(text + "adaLN_modulation.1", F.silu(c)).chunk(2 if last else 6, -1)
        both = zip(qkv(text + "attn", modulate(t, n[0], n[1])), qkv(image + "attn", modulate(u, m[0], m[1])))
        a = attend(*(torch.cat(pair, 2) for pair in both))
        u = close(image, u, a[:, t.shape[1] :], m)
        t = None if last else close(text, t, a[:, : t.shape[1]], n)
    shift, scale = p.linear("final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, -1)
    return unpatch(p.linear("final_layer.linear", modulate(u, shift, scale)), h, w, False)


def flux(p, x, double, single, axes, count=2, mask=None):
    h, w = x["sample"].shape[-2:]
    u, t = p.linear("img_in", patch(x["sample"], True)), p.linear("txt_in", x["context"])
    length = t.shape[1]
    vec = p.mlp("time_in", "in_layer", "out_layer", sinusoids(x["sigmas"], 1000.0))
    vec = vec + p.mlp("vector_in", "in_layer", "out_layer", x["pooled"])
    if "guidance" in x:
        vec = vec + p.mlp("guidance_in", "in_layer", "out_layer", sinusoids(x["guidance"], 1000.0))
    ids = torch.cat([torch.zeros(length, 3), F.pad(places(h, w), (1, 0))])[None]
    angles = axis_angles(ids, axes)
    keys = None if mask is None else torch.cat([mask.bool(), torch.ones(len(mask), u.shape[1], dtype=torch.bool)], 1)

    def normed(name, qkv):
        q, k, v = (heads(part, count) for part in qkv)
        return p.rms(name + "query_norm.scale", q, 1e-6), p.rms(name + "key_norm.scale", k, 1e-6), v

    def joint(q, k, v):
        return attend(rotate(q, angles), rotate(k, angles), v, keys)

    for i in range(double):
        block, streams = f"double_blocks.{i}.", {"txt": t, "img": u}
        mods = {s: p.linear(f"{block}{s}_mod.lin", F.silu(vec)).chunk(6, -1) for s in streams}
        parts = []
        for s, stream in streams.items():
            fused = p.linear(f"{block}{s}_attn.qkv", modulate(stream, *mods[s][:2]))
            parts.append(normed(f"{block}{s}_attn.norm.", fused.chunk(3, -1)))
        a = joint(*(torch.cat(pair, 2) for pair in zip(*parts)))
        for s, rows in (("txt", a[:, :length]), ("img", a[:, length:])):
            _, _, gate1, shift2, scale2, gate2 = mods[s]
            stream = streams[s] + gate1[:, None] * p.linear(f"{block}{s}_attn.proj", rows)
            inner = p.mlp(f"{block}{s}_mlp", 0, 2, modulate(stream, shift2, scale2), gelu_tanh)
            streams[s] = stream + gate2[:, None] * inner
        t, u = streams["txt"], streams["img"]
    s = torch.cat([t, u], 1)
    for i in range(single):
        block = f"single_blocks.{i}."
        shift, scale, gate = p.linear(block + "modulation.lin", F.silu(vec)).chunk(3, -1)
        d = s.shape[-1]
        *qkv, inner = p.linear(block + "linear1", modulate(s, shift, scale)).split([d, d, d, 4 * d], -1)
        a = joint(*normed(block + "norm.", qkv))
        s = s + gate[:, None] * p.linear(block + "linear2", torch.cat([a, gelu_tanh(inner)], -1))
    shift, scale = p.linear("final_layer.adaLN_modulation.1", F.silu(vec)).chunk(2, -1)
    return unpatch(p.linear("final_layer.linear", modulate(s[:, length:], shift, scale)), h, w, True)


def lumina_block(p, block, s, c, attention):
    """`attention` of the normed stream; no modulation where the block has none."""
    scale1, gate1, scale2, gate2 = 0, 1, 0, 1
    if p.has(block + "adaLN_modulation.1.weight"):
        m = p.linear(block + "adaLN_modulation.1", F.silu(c))[:, None].chunk(4, -1)
        scale1, gate1, scale2, gate2 = m[0], m[1].tanh(), m[2], m[3].tanh()

    def rms(name, v):
        return p.rms(f"{block}{name}.weight", v, 1e-5)

    def w(k, v):
        return p.linear(f"{block}feed_forward.w{k}", v)

    s = s + gate1 * rms("attention_norm2", attention(rms("attention_norm1", s) * (1 + scale1)))
    n = rms("ffn_norm1", s) * (1 + scale2)
    return s + gate2 * rms("ffn_norm2", w(2, F.silu(w(1, n)) * w(3, n)))


def lumina_end(p, s, c):
    return p.linear("final_layer.linear", norm(s) * (1 + p.linear("final_layer.adaLN_modulation.1", F.silu(c)))[:, None])


def lumina2(p, x, layers=2, refiners=1, count=4, kv=2, axes=(2, 2, 2)):
    """Each sample alone with its real caption tokens: no padding, no masks."""
    h, w = x["sample"].shape[-2:]

    def stack(group, number, s, c, ids):
        angles = axis_angles(ids[None], axes)
        for i in range(number):
            name = f"{group}.{i}.attention."

            def attention(n):
                d = n.shape[-1]
                fused = p.linear(name + "qkv", n).split([d, d // count * kv, d // count * kv], -1)
                q, k, v = (heads(part, m) for part, m in zip(fused, (count, kv, kv)))
                q = rotate(p.rms(name + "q_norm.weight", q, 1e-5), angles)
                k = rotate(p.rms(name + "k_norm.weight", k, 1e-5), angles)
                return p.linear(name + "out", attend(q, *(y.repeat_interleave(count // kv, 1) for y in (k, v))))

            s = lumina_block(p, f"{group}.{i}.", s, c, attention)
        return s

    outs = []
    for i, real in enumerate(x["context_mask"].sum(1).tolist()):
        c = p.mlp("t_embedder.mlp", 0, 2, sinusoids(1 - x["sigmas"][i : i + 1]))
        caption = p.linear("cap_embedder.1", p.rms("cap_embedder.0.weight", x["context"][i : i + 1, :real], 1e-5))
        text_ids = F.pad(torch.arange(real)[:, None], (0, 2))
        image_ids = F.pad(places(h, w), (1, 0), value=real)
        caption = stack("context_refiner", refiners, caption, c, text_ids)
        image = p.linear("x_embedder", patch(x["sample"][i : i + 1], False))
        image = stack("noise_refiner", refiners, image, c, image_ids)
        s = stack("layers", layers, torch.cat([caption, image], 1), c, torch.cat([text_ids, image_ids]))
        outs.append(unpatch(lumina_end(p, s, c)[:, real:], h, w, False))
    return torch.cat(outs)


def lumina_next(p, x, layers=2, count=4, kv=2):
    h, w = x["sample"].shape[-2:]
    mask = x["context_mask"]
    mean = (x["context"] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    pooled = F.layer_norm(mean, mean.shape[-1:], p["cap_embedder.0.weight"], p["cap_embedder.0.bias"], 1e-5)
    c = p.mlp("t_embedder.mlp", 0, 2, sinusoids(1 - x["sigmas"])) + p.linear("cap_embedder.1", pooled)
    s = p.linear("x_embedder", patch(x["sample"], True))
    d = s.shape[-1] // count
    omega = 10000.0 ** (-4 * torch.arange(d // 4) / d)
    angles = (places(h, w)[:, None, :] * omega[:, None]).flatten(1)[None]
    for i in range(layers):
        name = f"layers.{i}.attention."
        y = p.rms(f"layers.{i}.attention_y_norm.weight", x["context"], 1e-5)

        def normed(kind, v):
            return F.layer_norm(v, v.shape[-1:], p[f"{name}{kind}.weight"], p[f"{name}{kind}.bias"], 1e-5)

        def shared(v):
            return heads(v, kv).repeat_interleave(count // kv, 1)

        def attention(n):
            q = rotate(heads(normed("q_norm", p.linear(name + "wq", n)), count), angles)
            k = rotate(shared(normed("k_norm", p.linear(name + "wk", n))), angles)
            a = attend(q, k, shared(p.linear(name + "wv", n)))
            ky = shared(normed("ky_norm", p.linear(name + "wk_y", y)))
            b = attend(q, ky, shared(p.linear(name + "wv_y", y)), mask.bool())
            return p.linear(name + "wo", a + b * p[name + "gate"].tanh().repeat_interleave(d))

        s = lumina_block(p, f"layers.{i}.", s, c, attention)
    return unpatch(lumina_end(p, s, c), h, w, False)


def main():
    for name, forward in {
        "sd3": sd3,
        "sd35m": sd3,
        "flux": lambda p, x: flux(p, x, 1, 2, (2, 4, 2)),
        "flux_schnell": lambda p, x: flux(p, x, 2, 1, (2, 2, 4)),
        "lumina2": lumina2,
        "lumina_next": lambda p, x: lumina_next(p, x)[:, :4],
    }.items():
        io = load_file(FIXTURES / name / "io.safetensors")
        out = forward(Weights(name), io)
        error = float((out - io["out"]).abs().max() / io["out"].abs().max())
        print(f"  {name}: the formulas give the fixture's output to {error:.1e}")
        assert error < 1e-5, name
        if name.startswith("flux"):
            masked = flux(Weights(name), io, *((1, 2, (2, 4, 2)) if name == "flux" else (2, 1, (2, 2, 4))), mask=io["context_mask"])
            assert float((masked - io["out_masked"]).abs().max() / io["out"].abs().max()) < 1e-5


if __name__ == "__main__":
    main()
