"""Makes every fixture, or compares freshly made ones with those that are committed.

usage: make_all.py [--check] [--tokenizer-dir DIR]

--check writes to a temporary folder and compares; it exits with 1 on any difference
beyond rounding (1e-4 of a tensor's largest value) and tells what is not bit-equal.
"""

import argparse
import gzip
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMITTED = HERE.parent / "fixtures"
# Later ones read what earlier ones wrote.
TOPICS = ["clip", "unet", "vae", "single_file", "keys", "layouts", "lora_trajectory", "schedule_optim", "tokens"]
TOPICS += ["sdxl_unet", "clip_open", "t5", "gemma", "sd3", "flux", "lumina", "sdxl_lora", "flow_lora", "samplers"]
TOPICS += ["pickles", "sentencepiece", "losses", "optimizers", "lycoris", "sd2_lora", "text_lora", "full_runs", "preserve"]


def compare(fresh):
    from safetensors.torch import load_file

    def files(root):
        return {p.relative_to(root) for p in root.rglob("*") if p.is_file()}

    # The folder may hold fixtures of other origin, so only what is made here is compared.
    bad = 0
    for name in sorted(files(fresh)):
        new, old = fresh / name, COMMITTED / name
        if not old.exists():
            print(f"FAIL {name}: not committed")
            bad += 1
        elif new.read_bytes() == old.read_bytes():
            continue
        # Another zlib packs the same text into other bytes.
        elif name.suffix == ".gz" and gzip.decompress(new.read_bytes()) == gzip.decompress(old.read_bytes()):
            continue
        elif name.suffix != ".safetensors":
            print(f"FAIL {name}: differs")
            bad += 1
        else:
            a, b = load_file(new), load_file(old)
            if set(a) != set(b) or any(a[k].shape != b[k].shape for k in a):
                print(f"FAIL {name}: other keys or shapes")
                bad += 1
                continue
            worst = max(float((a[k].double() - b[k].double()).abs().max() / b[k].double().abs().max().clamp(min=1e-3)) for k in a)
            print(f"{'FAIL' if worst > 1e-4 else 'note'} {name}: not bit-equal, worst relative deviation {worst:.2g}")
            bad += worst > 1e-4
    print("fixtures agree" if not bad else f"{bad} files differ")
    return bad


def check_in_diffusers(root):
    """The scripts that judge the trainer's files have to accept the reference's own."""
    model, single = root / "diffusers_dir", root / "single_file" / "model.safetensors"
    io = [f"--io={root / name / 'io.safetensors'}" for name in ("unet", "vae4", "clip_l")]
    lora, pickles = root / "lora_trajectory", root / "pickles"
    for command in [
        ["check_checkpoint_in_diffusers.py", model, *io],
        ["check_checkpoint_in_diffusers.py", single, "--config", model, *io],
        ["check_ckpt.py", pickles / "ours.ckpt", pickles / "state.safetensors", "--epoch=3", "--global-step=70000"],
        ["check_lora_in_diffusers.py", model, lora / "final.safetensors", lora / "io.safetensors"],
    ]:
        subprocess.run([sys.executable, HERE / command[0], *map(str, command[1:])], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tokenizer-dir")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        if args.check:
            os.environ["PIPE_FIXTURES"] = scratch
        sys.path.insert(0, str(HERE))
        for topic in TOPICS:
            print(f"{topic}:", flush=True)
            start = time.time()
            module = importlib.import_module(f"make_{topic}")
            if topic in ("tokens", "sentencepiece"):
                module.main(["--tokenizer-dir", args.tokenizer_dir] if args.tokenizer_dir else [])
            else:
                module.main()
            print(f"  {time.time() - start:.1f} s", flush=True)
        import check_formulas
        from common import FIXTURES

        print("formulas:", flush=True)
        check_formulas.main()
        check_in_diffusers(FIXTURES)
        if args.check:
            return 1 if compare(Path(scratch)) else 0
        total = sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file())
        print(f"total {total / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
