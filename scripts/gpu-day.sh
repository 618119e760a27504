#!/usr/bin/env bash
# Packs a day on a GPU into one folder, target/gpu-day: the program, the reference cases, the PyTorch peer,
# volumes for a short pre-training, and run.sh, which does the day. Building needs no GPU; the machine
# with the GPU needs a driver (R580 or newer), Python 3 and glibc 2.28 or newer, and uses PyTorch,
# compute-sanitizer and ncu where it has them.
#
#   scripts/gpu-day.sh                    build, pack, print the size and the plan of seconds
#   scripts/gpu-day.sh --rehearse         also go through the day behind a stand-in for the driver
#   SECONDS_THERE=560 scripts/gpu-day.sh  the plan for so many seconds (780)
#   GLMAE_CUDA_ARCHS=80,90a               code for these GPUs (90a: H100, H200)
#
# On the GPU machine:  gpu-day/run.sh 560 --out results
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

begin=$SECONDS
# Of 64 that may have to go with the sources.
most_mib=56
there=${SECONDS_THERE:-780}
target=${CARGO_TARGET_DIR:-target}
bundle=$target/gpu-day
shared=${GLMAE_SHARED:-../shared}
export GLMAE_CUDA_ARCHS=${GLMAE_CUDA_ARCHS:-90a}
NVCC=$(scripts/cuda-toolchain.sh)
linker=$(scripts/portable-linker.sh)
export NVCC

echo "== program"
cargo build --locked --release --features cuda --lib --example cuda_stand_in
cargo rustc --locked --release --features cuda --bin glmae -- -C "linker=$linker"

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/site"
cp "$target/release/glmae" "$bundle/bin/glmae"
# The line tables go, the symbol table stays: the emulated device finds shared memory with it.
strip --strip-debug "$bundle/bin/glmae"
cp scripts/gpu-day/{run.sh,day.py,plan.py,report.py,shapes.txt} "$bundle/"
if compgen -G "$shared/peer/*.py" >/dev/null; then
  mkdir -p "$bundle/peer" "$bundle/cases"
  cp "$shared"/peer/*.py "$bundle/peer/"
  # A case of a whole UNETR takes a GPU's machine long on the CPU side; its layers are enough.
  cp "$shared"/peer/cases/{mini,mini_alt,tiny,unetr_layers,unetr_window}.safetensors "$bundle/cases/"
fi
if [[ -d "$shared/data/hippocampus/imagesTr" ]]; then
  mkdir -p "$bundle/data"
  find "$shared/data/hippocampus/imagesTr" -name '*.nii.gz' | sort | head -n 60 | xargs cp -t "$bundle/data"
fi
# MONAI and einops are wheels of Python files; PyTorch must be there already.
if python3 -m pip download --quiet --no-deps --only-binary=:all: -d "$bundle/site" monai==1.6.1 einops==0.8.1 2>/dev/null; then
  for wheel in "$bundle"/site/*.whl; do
    python3 -m zipfile -e "$wheel" "$bundle/site/packages"
    rm "$wheel"
  done
fi
oldest=$(objdump -T "$bundle/bin/glmae" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
python3 - "$bundle" "$oldest" <<PY
import json, subprocess, sys
say = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip()
build = {"commit": say("git", "rev-parse", "--short", "HEAD") or "unknown",
         "changed": bool(say("git", "status", "--porcelain", "--untracked-files=no")),
         "archs": "$GLMAE_CUDA_ARCHS", "nvcc": say("$NVCC", "--version").splitlines()[-1],
         "rustc": say("rustc", "--version"), "needs": sys.argv[2]}
json.dump(build, open(sys.argv[1] + "/BUILD.json", "w"), indent=1)
PY
chmod -R u+w "$bundle"

mib=$(du -sm "$bundle" | cut -f 1)
echo "== $bundle: $mib MiB, $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s, needs ${oldest/_/ } or newer"
du -sh "$bundle"/*
if ((mib > most_mib)); then
  echo "the folder has $mib MiB, at most $most_mib are allowed; leave out architectures (GLMAE_CUDA_ARCHS)" >&2
  exit 1
fi
[[ "$(printf '%s\nGLIBC_2.28\n' "$oldest" | sort -V | tail -n 1)" == GLIBC_2.28 ]] || {
  echo "the program needs ${oldest/_/ }, newer than 2.28" >&2
  exit 1
}
echo "== plan for $there s"
"$bundle/run.sh" "$there" --list
if [[ "${1:-}" == --rehearse ]]; then
  echo "== rehearsal"
  python3 scripts/gpu-day/rehearse.py "$bundle/bin/glmae" "$target/release/examples/libcuda_stand_in.so" --long
fi
