#!/usr/bin/env bash
# Loads what `glmae export` writes into MONAI's own networks with strict=True, for every target, and compares
# logits and tokens with those of this engine. Not part of CI: it installs PyTorch (CPU) and MONAI.
#
#   scripts/check-monai-export.sh [VERSION...]      # default: 1.0.0 1.4.0 1.6.1
#
# Environment: PYTHON (one with torch, numpy, einops and safetensors; else a venv is made in .venv/monai),
# GLMAE (the binary; else a debug build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

versions=("$@")
[[ $# -gt 0 ]] || versions=(1.0.0 1.4.0 1.6.1)

python=${PYTHON:-.venv/monai/bin/python}
if ! "$python" -c 'import einops, numpy, safetensors, torch' 2>/dev/null; then
  if [[ -n "${PYTHON:-}" ]]; then
    echo "$PYTHON lacks torch, numpy, einops or safetensors" >&2
    exit 3
  fi
  echo "installing PyTorch into .venv/monai" >&2
  python3 -m venv .venv/monai
  # PyTorch's own index has the build without CUDA; where only a mirror of PyPI is reachable, the large one.
  .venv/monai/bin/pip install --quiet torch --index-url https://download.pytorch.org/whl/cpu >&2 ||
    .venv/monai/bin/pip install --quiet torch >&2
  .venv/monai/bin/pip install --quiet numpy einops safetensors >&2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GLMAE_MONAI_CHECK="$work"
cargo test --quiet --test main interchange::monai_check >&2
glmae=${GLMAE:-}
if [[ -z "$glmae" ]]; then
  cargo build --quiet
  glmae="${CARGO_TARGET_DIR:-target}/debug/glmae"
fi

cat >"$work/check.py" <<'PYTHON'
import sys

import monai
import monai.networks.nets  # for the construct lines
import torch
from safetensors import safe_open
from safetensors.torch import load_file

work, version = sys.argv[1:]
assert monai.__version__ == version, f"MONAI {monai.__version__} was found"
ours = load_file(f"{work}/results.safetensors")
failed = False


def build(name):
    path = f"{work}/{name}.safetensors"
    with safe_open(path, "pt") as f:
        network = eval(f.metadata()["glmae.construct"]).eval()
    network.load_state_dict(load_file(path), strict=True)
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    return network


def compare(name, found, expected):
    global failed
    worst = (found - expected).abs().max().item()
    bad = not worst <= 1e-4
    failed |= bad
    top = expected.abs().max().item()
    print(f"monai {version}  {name:<18} strict, worst difference {worst:.1e} of {top:.2f}{'  TOO MUCH' * bad}")


with torch.no_grad():
    for kind in ["", "-perceptron"]:
        compare(f"UNETR{kind}", build(f"unetr{kind}")(ours["image"]), ours["logits"])
        compare(f"ViT{kind}", build(f"vit{kind}")(ours["image"])[0], ours["tokens"])
    build("checkpoint")
    print(f"monai {version}  ViT of a pre-training checkpoint: strict")
    build("bare")
    print(f"monai {version}  UNETR without qkv_bias: strict")
sys.exit(failed)
PYTHON

for version in "${versions[@]}"; do
  if [[ ! -d ".venv/monai-$version/monai" ]]; then
    "$python" -m pip install --quiet --no-deps --target ".venv/monai-$version" "monai==$version" >&2
  fi
  case "$version" in
    1.[0-3].*) target=monai-1.0 ;;
    1.[45].*) target=monai-1.4 ;;
    *) target=monai-1.6 ;;
  esac
  export_to() { "$glmae" export "$2" --target "$target" --out "$work/$1.safetensors" "${@:3}" >/dev/null; }
  export_to unetr "$work/segmenter.safetensors"
  export_to unetr-perceptron "$work/segmenter.safetensors" --perceptron
  export_to bare "$work/segmenter.safetensors" --without-qkv-bias
  # The encoder takes the long way: out of the exported UNETR, into our format, and out again.
  for kind in "" -perceptron; do
    "$glmae" import "$work/unetr$kind.safetensors" --heads 3 --grid 3,2,1 --out "$work/in$kind" >/dev/null
    export_to "vit$kind" "$work/in$kind/encoder.safetensors" ${kind:+-$kind}
  done
  export_to checkpoint "$work/run"
  PYTHONPATH=".venv/monai-$version${PYTHONPATH:+:$PYTHONPATH}" "$python" -W ignore "$work/check.py" "$work" "$version"
done
