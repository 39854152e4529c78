"""Does torch load a checkpoint that `pipe` wrote, with the values it should hold?

usage: check_ckpt.py FILE.ckpt EXPECTED.safetensors [--epoch N] [--global-step N]

Loads with `weights_only=True`, from memory and mapped, and unpacks the file with Python's
own zip reader, which compares the checksums. Every tensor must equal that of EXPECTED bit
by bit. Exits with 0 if everything agrees, 1 if not.
"""

import argparse
import sys
import zipfile

import common  # noqa: F401  (thread count, offline mode)

import torch
from safetensors.torch import load_file


def same(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.numel() == 0 or torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt")
    parser.add_argument("expected")
    parser.add_argument("--epoch", type=int, default=0)
    parser.add_argument("--global-step", type=int, default=0)
    args = parser.parse_args(argv)

    failures = []

    def judge(name, ok):
        print(f"{'ok  ' if ok else 'FAIL'} {name}")
        if not ok:
            failures.append(name)

    expected = load_file(args.expected)
    for mmap in (False, True):
        found = torch.load(args.ckpt, map_location="cpu", weights_only=True, mmap=mmap)
        how = "mapped" if mmap else "read"
        judge(f"{how}: entries", set(found) == {"state_dict", "epoch", "global_step"})
        judge(f"{how}: progress", (found["epoch"], found["global_step"]) == (args.epoch, args.global_step))
        state = found["state_dict"]
        judge(f"{how}: names of {len(expected)} tensors", set(state) == set(expected))
        judge(f"{how}: values", all(name in state and same(state[name], value) for name, value in expected.items()))
    with zipfile.ZipFile(args.ckpt) as archive:
        judge("zip: checksums", archive.testzip() is None)
        judge("zip: stored members", all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist()))
        with open(args.ckpt, "rb") as file:
            starts = []
            for info in archive.infolist():
                file.seek(info.header_offset + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                starts.append(info.header_offset + 30 + name + extra)
        judge("zip: members at multiples of 64", all(start % 64 == 0 for start in starts))
    print("verdict:", "FAIL (" + ", ".join(failures) + ")" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
