#!/usr/bin/env bash
# Builds everything that has to run on a GPU machine into one folder, target/gpu-bundle: the program,
# the test program, the reference cases, the PyTorch peer, and run.sh, which runs all of it. The GPU
# machine needs a driver and Python 3, no Rust and no CUDA toolkit. Building needs no GPU.
#
#   scripts/gpu-bundle.sh                  build the folder (and target/gpu-bundle.tar.gz)
#   GLMAE_CUDA_ARCHS=90a scripts/gpu-bundle.sh     only for these architectures: smaller, faster
#
# On a cluster: build on the login node, then on the GPU node  target/gpu-bundle/run.sh --out results
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

most_mib=60
target=${CARGO_TARGET_DIR:-target}
bundle=$target/gpu-bundle
shared=${GLMAE_SHARED:-../shared}
NVCC=$(scripts/cuda-toolchain.sh)
export NVCC

echo "== program (release)"
# GLMAE_BUNDLE_PROFILE=dev builds faster, for a trial of the bundle itself.
profile=${GLMAE_BUNDLE_PROFILE:-release}
cargo build --locked --features cuda --profile "$profile"
echo "== tests"
tests=$(cargo test --locked --features cuda --test main --no-run --message-format=json |
  python3 -c '
import json, sys
for line in sys.stdin:
    row = json.loads(line) if line.startswith("{") else {}
    if row.get("reason") == "compiler-artifact" and row.get("executable") and row["profile"]["test"]:
        print(row["executable"])')

rm -rf "$bundle" "$bundle.tar.gz"
mkdir -p "$bundle/bin" "$bundle/peer" "$bundle/cases" "$bundle/results"
cp "$target/${profile/dev/debug}/glmae" "$bundle/bin/glmae"
cp "$tests" "$bundle/bin/tests"
# The line tables go, the symbol table stays: the emulated device finds shared memory with it.
strip --strip-debug "$bundle/bin/glmae" "$bundle/bin/tests"
cp scripts/gpu-bundle/run.sh scripts/gpu-bundle/summarise.py "$bundle/"
if compgen -G "$shared/peer/*.py" >/dev/null; then
  cp "$shared"/peer/*.py "$bundle/peer/"
  cp "$shared"/peer/cases/[!u]*.safetensors "$bundle/cases/"
else
  echo "skipped: the PyTorch peer and the reference cases, $shared/peer is not there"
fi
{
  echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo "profile $profile"
  "$NVCC" --version | tail -n 1
  rustc --version
} >"$bundle/BUILD"
chmod -R u+w "$bundle"

mib=$(du -sm "$bundle" | cut -f 1)
echo "== $bundle: $mib MiB"
du -sh "$bundle"/*
if ((mib > most_mib)); then
  echo "the bundle has $mib MiB, at most $most_mib are allowed; leave out architectures (GLMAE_CUDA_ARCHS)" >&2
  exit 1
fi
tar -C "$target" -czf "$bundle.tar.gz" gpu-bundle
echo "== $bundle.tar.gz: $(du -m "$bundle.tar.gz" | cut -f 1) MiB; on the GPU machine: gpu-bundle/run.sh"
