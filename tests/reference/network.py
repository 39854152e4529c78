"""What the fixtures of all networks have in common: gradients, precision, files.

`record` runs a network forward and backward, and once more in float64, so that a fixture
whose float32 values cannot be reproduced to the tests' tolerance is refused when it is made.
"""

import contextlib
import copy
import inspect

from common import randn, save_config, save_json, save_tensors

import diffusers.models.embeddings
import torch

# Largest deviation from float64, divided by the tensor's largest value, that a fixture may
# have. The tests allow 1e-5 of outputs and 1e-4 of gradients.
OUTPUT_ERROR, GRADIENT_ERROR = 3e-6, 5e-5


@contextlib.contextmanager
def exact_sinusoids():
    """diffusers computes sinusoids in float32 whatever the model's type; here in float64."""
    module = diffusers.models.embeddings
    original = module.get_timestep_embedding

    def exact(timesteps, embedding_dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1, max_period=10000):
        assert flip_sin_to_cos and downscale_freq_shift == 0
        half = embedding_dim // 2
        omega = torch.exp(-torch.log(torch.tensor(max_period, dtype=torch.float64)) * torch.arange(half) / half)
        angle = scale * timesteps.double()[:, None] * omega
        return torch.cat([angle.cos(), angle.sin()], -1)

    module.get_timestep_embedding = exact
    try:
        yield
    finally:
        module.get_timestep_embedding = original


def damp(model):
    """Weighs the fast sinusoids of time and guidance less, after `randomise`.

    The angle of the fastest is 1000 sigma, which float32 knows to 1e-4 only: with random
    weights that alone makes 1e-5 of the output, and says nothing about the network.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("timestep_embedder.linear_1.weight", "guidance_embedder.linear_1.weight")):
            half = parameter.shape[1] // 2
            omega = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
            parameter.data *= (1 / (1 + 10 * omega)).float().repeat(2)
    return model


def cast(tensors, dtype):
    return {k: v.detach().to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def backward(model, inputs, forward, wrt, cotangents):
    """Outputs, and gradients of the sum over outputs of (output * cotangent)."""
    model.zero_grad(set_to_none=True)
    inputs = dict(inputs, **{k: inputs[k].detach().clone().requires_grad_() for k in wrt})
    outputs = forward(model, inputs)
    sum((outputs[k] * c).sum() for k, c in cotangents.items()).backward()
    grads = {k: inputs[k].grad for k in wrt}
    # A parameter that no given output depends on (a layer after the one that is read) has none.
    grads.update({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    return {k: v.detach() for k, v in outputs.items()}, grads


def relative(value, exact):
    return float((value.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def record(model, inputs, forward, wrt, outputs, seed, rename=lambda grads: grads, mask=None, zero=()):
    """The content of a network's io file.

    inputs: tensors by name; forward(model, inputs) -> outputs by name. `outputs` names those
    with a cotangent: N(0, 1), times `mask` if given. `wrt` names the inputs to differentiate.
    `rename` turns gradients by parameter name into those to store. Parameters whose names
    end in one of `zero` have a gradient that is zero but for rounding.
    """
    with torch.no_grad():
        shapes = {k: forward(model, inputs)[k].shape for k in outputs}
    cotangents = {k: randn(*shape, seed=seed + i) for i, (k, shape) in enumerate(shapes.items())}
    if mask is not None:
        cotangents = {k: v * mask for k, v in cotangents.items()}
    values, grads = backward(model, inputs, forward, wrt, cotangents)

    double = copy.deepcopy(model).double()
    with exact_sinusoids():
        exact = backward(double, cast(inputs, torch.float64), forward, wrt, cast(cotangents, torch.float64))
    errors = {k: relative(values[k], exact[0][k]) for k in values}
    slopes = {k: relative(grads[k], exact[1][k]) for k in grads if not k.endswith(tuple(zero) or "\0")}
    worst = max(slopes, key=slopes.get)
    print(f"    float32 error: outputs {max(errors.values()):.1e}, gradients {slopes[worst]:.1e} ({worst})")
    assert max(errors.values()) < OUTPUT_ERROR, errors
    assert slopes[worst] < GRADIENT_ERROR, (worst, slopes[worst])

    names = {"cotangent" if len(outputs) == 1 else f"cotangent_{k}": v for k, v in cotangents.items()}
    inner = {k: v for k, v in grads.items() if k not in wrt}
    stored = {f"grad.{k}": grads[k] for k in wrt} | {f"grad.{k}": v for k, v in rename(inner).items()}
    return {**inputs, **values, **names, **stored}


def write_diffusers(model, folder):
    """Weights and config as diffusers keeps them; must load again to the same tensors."""
    save_tensors(folder / "diffusion_pytorch_model.safetensors", model.state_dict())
    save_config(folder / "config.json", dict(model.config, _class_name=type(model).__name__))
    same(type(model).from_pretrained(folder).state_dict(), model.state_dict())


def write_transformers(model, folder, keys=lambda key: [key]):
    """Weights and config as transformers keeps them; `keys` gives the published names."""
    state = {k: v for name, v in model.state_dict().items() for k in keys(name)}
    save_tensors(folder / "model.safetensors", state)
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "transformers_version"}
    save_json(folder / "config.json", dict(config, architectures=[type(model).__name__], dtype="float32"))
    same(type(model).from_pretrained(folder).state_dict(), model.state_dict())


def resized(function, sizes):
    """One of diffusers' conversions that knows the published widths only, with others."""
    source = inspect.getsource(function)
    for published, ours in sizes.items():
        assert published in source, published
        source = source.replace(published, ours)
    scope = dict(function.__globals__)
    exec(source, scope)
    return scope[function.__name__]


def same(ours, theirs):
    assert set(ours) == set(theirs), sorted(set(ours) ^ set(theirs))[:6]
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
