"""One LoRA step of the full-size SD 1.5 U-Net on the CPU: pipe beside PyTorch, in one run.

Random weights, rank 16 on the 192 linear layers of the transformers, 256 x 256 pixels (latents 32 x 32), batch 1, f32,
AdamW. The two take turns, so that what else the machine does hits both alike. Prints seconds a step, peak resident memory
and their ratios.

    python tests/benchmarks/sd15_step.py target/release/pipe [--rounds 2] [--steps 3]

Needs the packages of tests/reference/requirements.txt.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCUMENT = """
version: 1
name: sd15-step
train: {{ device: cpu, precision: f32, steps: {steps}, batch_size: 1 }}
nodes:
  rows: {{ type: loader.replay, path: replay.safetensors }}
  unet: {{ type: model.sd1, init: {{ widths: [320, 640, 1280, 1280], context_dim: 768 }}, checkpointing: {checkpointing} }}
  lora: {{ type: adapter.lora, model: unet, rank: 16 }}
  loss: {{ type: loss.diffusion, model: lora, batch: rows }}
  adamw: {{ type: optimizer.adamw, loss: loss, learning_rate: 1e-4 }}
  metrics: {{ type: logger.metrics, update: adamw }}
"""


def ours(pipe, folder, steps, checkpointing):
    document = folder / "step.yaml"
    document.write_text(DOCUMENT.format(steps=steps, checkpointing=checkpointing))
    out = folder / f"run-{time.time_ns()}"
    with open(folder / "log", "w+") as log:
        run = subprocess.Popen([pipe, "run", document, "--output", out], stdout=log, stderr=log)
        _, status, usage = os.wait4(run.pid, 0)
        if status:
            log.seek(0)
            sys.exit(log.read())
    seconds = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    return min(seconds[1:]), usage.ru_maxrss


def theirs(folder, steps, checkpointing):
    """In a process of its own, so that its memory can be told."""
    run = subprocess.run(
        [sys.executable, __file__, "--torch", str(folder), "--steps", str(steps), "--checkpointing", checkpointing],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    result = json.loads(run.stdout.splitlines()[-1])
    return result["seconds"], result["peak"]


def torch_steps(folder, steps, checkpointing):
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = UNet2DConditionModel(cross_attention_dim=768).requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    model.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=targets))
    if checkpointing == "blocks":
        model.enable_gradient_checkpointing()
        model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    rows = load_file(folder / "replay.safetensors")
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    best = float("inf")
    for step in range(steps):
        k = step % len(rows["latents"])
        start = time.perf_counter()
        t = rows["timesteps"][k : k + 1]
        alpha = alphas[t][:, None, None, None]
        noise = rows["noise"][k : k + 1]
        noisy = alpha.sqrt() * rows["latents"][k : k + 1] + (1 - alpha).sqrt() * noise
        out = model(noisy, t, rows["context"][k : k + 1]).sample
        loss = torch.nn.functional.mse_loss(out, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            best = min(best, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": best, "peak": peak, "modules": len(trained) // 2}))


def make_rows(folder):
    import torch
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(1)
    rows = {
        "latents": torch.randn(4, 4, 32, 32, generator=g),
        "noise": torch.randn(4, 4, 32, 32, generator=g),
        "timesteps": torch.tensor([17, 801, 333, 640]),
        "context": torch.randn(4, 77, 768, generator=g),
    }
    save_file(rows, folder / "replay.safetensors")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pipe", nargs="?")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--checkpointing", default="none", choices=["none", "blocks"])
    parser.add_argument("--torch", type=Path)
    args = parser.parse_args()
    if args.torch:
        return torch_steps(args.torch, args.steps, args.checkpointing)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(folder)
        results = {"pipe": [], "torch": []}
        for _ in range(args.rounds):
            results["pipe"].append(ours(Path(args.pipe).resolve(), folder, args.steps, args.checkpointing))
            results["torch"].append(theirs(folder, args.steps, args.checkpointing))
        best = {who: (min(s for s, _ in r), max(p for _, p in r) / 1e6) for who, r in results.items()}
        for who, (seconds, peak) in best.items():
            print(f"{who:6} {seconds:7.2f} s a step, {peak:5.2f} GB resident")
        print(f"ratio  {best['pipe'][0] / best['torch'][0]:7.2f} of the time, {best['pipe'][1] / best['torch'][1]:.2f} of the memory")


if __name__ == "__main__":
    main()
