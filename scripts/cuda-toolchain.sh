#!/usr/bin/env bash
# Prints the path of an nvcc. An installed one is used when there is one (NVCC, CUDA_HOME or
# CUDA_PATH, PATH); otherwise pinned wheels from PyPI are unpacked into .cuda/ beside Cargo.toml,
# where build.rs finds them. Needs neither a GPU nor root. Only this script downloads, never the build.
#
#   scripts/cuda-toolchain.sh            # print the path of nvcc, installing it if there is none
#   scripts/cuda-toolchain.sh --pinned   # always use the pinned wheels
#   scripts/cuda-toolchain.sh --nvtx     # only the headers for the feature `nvtx` (60 KB)
set -euo pipefail

# 13.0: an R580 driver runs what it makes. The disassemblers exist as wheels only since 13.2.
toolkit=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
  nvidia-cuda-crt==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-cuobjdump==13.2.78
  nvidia-cuda-nvdisasm==13.2.78
)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pinned="$root/.cuda/nvidia/cu13/bin/nvcc"

if [[ "${1:-}" == --nvtx ]]; then
  mkdir -p "$root/.cuda"
  python3 -m pip install --quiet --no-deps --upgrade --target "$root/.cuda/nvtx" nvidia-nvtx==13.0.85 >&2
  echo "$root/.cuda/nvtx/nvidia/cu13/include"
  exit 0
fi

if [[ "${1:-}" != --pinned ]]; then
  for candidate in "${NVCC:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "${CUDA_PATH:+$CUDA_PATH/bin/nvcc}" \
    "$(command -v nvcc || true)"; do
    if [[ -n "$candidate" && -x "$candidate" ]]; then
      echo "$candidate"
      exit 0
    fi
  done
fi

wanted="${toolkit[*]}"
if [[ ! -x "$pinned" || "$(cat "$root/.cuda/wheels" 2>/dev/null)" != "$wanted" ]]; then
  rm -rf "$root/.cuda"
  mkdir -p "$root/.cuda"
  python3 -m pip install --quiet --no-deps --target "$root/.cuda" "${toolkit[@]}" >&2
  # The wheel does not keep the execute bit of every tool.
  find "$root/.cuda/nvidia/cu13/bin" "$root/.cuda/nvidia/cu13/nvvm/bin" -type f -exec chmod +x {} +
  echo "$wanted" >"$root/.cuda/wheels"
fi
"$pinned" --version >/dev/null
echo "$pinned"
