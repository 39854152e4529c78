#!/usr/bin/env bash
# Puts the LLVM that the `cuda` feature builds with where its build script looks, from packages of the
# Python registry. Needed only where the build script cannot download it itself.
set -euo pipefail
version=23.1.0-4
target="${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$version"
if [ -e "$target/.tracel-llvm-installed" ]; then
  echo "LLVM is in place: $target"
  exit 0
fi
python="${PYTHON:-python3}"
store="${XDG_CACHE_HOME:-$HOME/.cache}/pipe-ci/llvm"
mkdir -p "$store" "$(dirname "$target")"
"$python" -m pip install --quiet --no-deps --upgrade --target "$store" \
  mlc-llvm-static==23.1.1.post0 mlc-llvm-static-extra-targets==23.1.1.post0
ln -sfn "$store/mlc_llvm_static/static" "$target"
touch "$target/.tracel-llvm-installed"
echo "LLVM is in place: $target"
