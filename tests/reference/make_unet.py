"""Tiny U-Nets, SD1 shaped (below diffusers_dir/unet) and SD2 shaped (unet_linear)."""

from common import CONTEXT, DIFFUSERS_DIR, FIXTURES, randn, save_config, save_tensors, tiny_unet, tiny_unet_linear

import torch


def write(model, folder):
    save_tensors(folder / "diffusion_pytorch_model.safetensors", model.state_dict())
    save_config(folder / "config.json", dict(model.config, _class_name="UNet2DConditionModel"))


def main():
    model = tiny_unet()
    assert len(model.state_dict()) == 686
    write(model, DIFFUSERS_DIR / "unet")

    sample = randn(2, 4, 16, 16, seed=301).requires_grad_()
    timesteps = torch.tensor([17, 803], dtype=torch.int64)
    context = randn(2, 77, CONTEXT, seed=302).requires_grad_()
    out = model(sample, timesteps, context).sample
    cotangent = randn(2, 4, 16, 16, seed=303)
    (out * cotangent).sum().backward()

    # 12 x 10 is not divisible by 8: the up-samplers go to the size of the next skip.
    sample_odd = randn(2, 4, 12, 10, seed=304)
    with torch.no_grad():
        out_odd = model(sample_odd, timesteps, context).sample

    tensors = {
        "sample": sample,
        "timesteps": timesteps,
        "context": context,
        "out": out,
        "cotangent": cotangent,
        "grad.sample": sample.grad,
        "grad.context": context.grad,
        "sample_odd": sample_odd,
        "out_odd": out_odd,
    }
    for name, parameter in model.named_parameters():
        tensors["grad." + name] = parameter.grad
    save_tensors(FIXTURES / "unet" / "io.safetensors", tensors)

    model = tiny_unet_linear()
    write(model, FIXTURES / "unet_linear")
    sample = randn(2, 4, 16, 16, seed=311)
    timesteps = torch.tensor([999, 250], dtype=torch.int64)
    context = randn(2, 77, model.config.cross_attention_dim, seed=312)
    cotangent = randn(2, 4, 16, 16, seed=313)
    # In float64, so that a test sees no rounding but its own: float32 is off by up to 5e-5 here.
    model.double()
    given = [x.double().requires_grad_() for x in (sample, context)]
    out = model(given[0], timesteps, given[1]).sample
    (out * cotangent).sum().backward()
    tensors = {"sample": sample, "timesteps": timesteps, "context": context, "cotangent": cotangent}
    tensors |= {"out": out.float(), "grad.sample": given[0].grad.float(), "grad.context": given[1].grad.float()}
    for name, parameter in model.named_parameters():
        tensors["grad." + name] = parameter.grad.float()
    save_tensors(FIXTURES / "unet_linear" / "io.safetensors", tensors)


if __name__ == "__main__":
    main()
