"""Tiny autoencoders: 4 latent channels (below diffusers_dir/vae) and 16 (vae16)."""

from common import DIFFUSERS_DIR, FIXTURES, gen, randn, save_config, save_tensors, tiny_vae

import torch


def make(channels, folder, io_folder, batch):
    model = tiny_vae(channels)
    assert len(model.state_dict()) == (248 if channels == 4 else 240)
    save_tensors(folder / "diffusion_pytorch_model.safetensors", model.state_dict())
    save_config(folder / "config.json", dict(model.config, _class_name="AutoencoderKL"))

    seed = 400 + channels
    image = (torch.rand(batch, 3, 64, 48, generator=gen(seed)) * 2 - 1).requires_grad_()
    posterior = model.encode(image).latent_dist
    latent = randn(batch, channels, 8, 6, seed=seed + 100)
    with torch.no_grad():
        decoded = model.decode(latent).sample

    # Image -> mean of the posterior -> image.
    reconstructed = model.decode(posterior.mean).sample
    cotangent = randn(batch, 3, 64, 48, seed=seed + 200)
    (reconstructed * cotangent).sum().backward()
    tensors = {
        "image": image,
        "moments": posterior.parameters,
        "latent": latent,
        "decoded": decoded,
        "cotangent_image": cotangent,
        "grad.image": image.grad,
    }
    for name, parameter in model.named_parameters():
        # The gradient of a key bias is zero in exact arithmetic (softmax is shift
        # invariant), so it holds rounding noise only.
        if not name.endswith("to_k.bias"):
            tensors["grad." + name] = parameter.grad
    save_tensors(io_folder / "io.safetensors", tensors)


def main():
    make(4, DIFFUSERS_DIR / "vae", FIXTURES / "vae4", batch=2)
    make(16, FIXTURES / "vae16", FIXTURES / "vae16", batch=1)


if __name__ == "__main__":
    main()
