#!/usr/bin/env bash
# The tests: format, lints, every test of both crates, on the CPU and on the emulated CUDA device, and
# the CUDA build when there is an nvcc or one can be unpacked. Needs Rust, a C++ compiler, Python 3.
#
#   scripts/test.sh                    all of it
#   GLMAE_NO_CUDA=1 scripts/test.sh    without the CUDA compiler (about 350 MB of wheels)
#   GLMAE_SHARED=DIR scripts/test.sh   where the reference cases and volumes are (../shared)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

begin=$SECONDS
log=$(mktemp)
trap 'rm -f "$log"' EXIT
skipped=()
say() { printf '\n== %s (%d s)\n' "$*" "$((SECONDS - begin))"; }

say "CUDA compiler"
nvcc=
if [[ -n "${GLMAE_NO_CUDA:-}" ]]; then
  skipped+=("CUDA build: GLMAE_NO_CUDA is set")
elif nvcc=$(scripts/cuda-toolchain.sh); then
  "$nvcc" --version | tail -n 2
else
  nvcc=
  skipped+=("CUDA build: no nvcc, and pip could not unpack one (is there a network?)")
fi
[[ -n "$nvcc" ]] || echo "SKIPPED ${skipped[-1]}"

# The kernels behind the stand-in for the driver round as nvcc's do, where the processor can.
with_cuda=cuda,contract
if [[ "$(uname -m)" == x86_64 ]] && ! grep -qw fma /proc/cpuinfo; then
  with_cuda=cuda
  skipped+=("kernels with fused products: the processor has no FMA")
fi

say "format"
cargo fmt --all --check

say "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
if [[ -n "$nvcc" ]]; then
  # One architecture is enough for the lints; the budget below compiles the kernels for three.
  GLMAE_CUDA_ARCHS=80 NVCC="$nvcc" cargo clippy --locked --all-targets --features "$with_cuda" -- -D warnings
  say "machine code of every kernel against its budget"
  NVCC="$nvcc" scripts/kernel-budget.sh --self-test | tail -n 1
  NVCC="$nvcc" scripts/kernel-budget.sh | tail -n 3
fi

say "documents"
# With an example: cargo then takes the build of the lints; without, it compiles all kernels once more.
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --lib --example cuda_stand_in --quiet
python3 scripts/gpu-results.py --check

if [[ -e /dev/nvidia0 && -n "$nvcc" ]]; then
  features=(--features cuda)
else
  features=()
  skipped+=("tests on a GPU: no CUDA device")
fi

say "tests"
# --show-output: a test that skips a part says so in its output. The examples run as a part of `main`, and need no
# binaries of their own.
NVCC="$nvcc" cargo test --locked --workspace "${features[@]}" --lib --bins --tests -- --show-output 2>&1 | tee "$log"
NVCC="$nvcc" cargo test --locked --workspace "${features[@]}" --doc 2>&1 | tee -a "$log"

# What follows is about kernels, which have their own compilers: the crate around them is optimised less.
quickly=(--config profile.dev.package.glmae.opt-level=1)

if [[ -n "$nvcc" ]]; then
  say "a day on a GPU, rehearsed behind a stand-in for the driver"
  # The same features and architecture as for the lints: the kernels are compiled already.
  GLMAE_CUDA_ARCHS=80 NVCC="$nvcc" cargo build "${quickly[@]}" --locked --features "$with_cuda" --bin glmae \
    --example cuda_stand_in
  target=${CARGO_TARGET_DIR:-target}/debug
  python3 scripts/gpu-day/rehearse.py "$target/glmae" "$target/examples/libcuda_stand_in.so"
fi

say "kernels under AddressSanitizer and UndefinedBehaviorSanitizer"
if [[ "$(g++ -print-file-name=libasan.a 2>/dev/null)" == /* ]]; then
  # The same dependencies; only this crate is compiled once more.
  sanitized=$SECONDS
  cargo test "${quickly[@]}" --locked --features sanitize --test main -- \
    emulator::sanitized emulator::primitives kernel_edges 2>&1 | tee -a "$log"
  echo "sanitized kernels: $((SECONDS - sanitized)) s with the build"
else
  skipped+=("sanitized kernels: no g++ with libasan.a")
fi

while IFS= read -r line; do skipped+=("$line"); done < <(sed -n 's/^skipped: //p' "$log" | sort -u)

say "summary"
for item in "${skipped[@]}"; do echo "SKIPPED $item"; done
awk -v skipped="${#skipped[@]}" '
  /^test result:/ { passed += $4; failed += $6; ignored += $8 }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored + skipped }' "$log"
