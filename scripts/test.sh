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

# With the compiler, everything below is built with the feature cuda: with the PTX and the machine code of the
# kernels for the two architectures whose PTX can be executed.
features=()
if [[ -n "$nvcc" ]]; then
  features=(--features cuda)
  export NVCC="$nvcc" GLMAE_CUDA_ARCHS="${GLMAE_CUDA_ARCHS:-80,90a}"
else
  skipped+=("compiled kernels executed without a GPU: they need the CUDA compiler")
fi
[[ -e /dev/nvidia0 && -n "$nvcc" ]] || skipped+=("tests on a GPU: no CUDA device")

say "format"
cargo fmt --all --check

say "lints"
# CI, which lints once, does without kernels here: they are compiled for the tests.
lint=(env ${GLMAE_LINT_WITHOUT_KERNELS:+GLMAE_NO_KERNELS=1} cargo clippy --locked --workspace --all-targets)
"${lint[@]}" -- -D warnings
if [[ -n "$nvcc" ]]; then
  "${lint[@]}" "${features[@]}" -- -D warnings
fi

say "documents"
# With an example: cargo then takes the build of the lints.
env ${GLMAE_LINT_WITHOUT_KERNELS:+GLMAE_NO_KERNELS=1} RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace \
  "${features[@]}" --no-deps --lib --example cuda_stand_in --quiet
python3 scripts/gpu-results.py --check

say "tests"
# --show-output: a test that skips a part says so in its output. The examples run as a part of `main`, and need no
# binaries of their own, but the stand-in for the driver is built along.
cargo test --locked --workspace "${features[@]}" --lib --bins --tests -- --show-output 2>&1 | tee "$log"
cargo test --locked --workspace "${features[@]}" --doc 2>&1 | tee -a "$log"

if [[ -n "$nvcc" ]]; then
  say "machine code of every kernel against its budget"
  scripts/kernel-budget.sh --self-test | tail -n 1
  # Two of the three architectures were compiled for the tests.
  GLMAE_BUILT=$(cargo build --locked "${features[@]}" --lib --message-format=json 2>/dev/null | python3 -c '
import json, pathlib, sys
for message in map(json.loads, sys.stdin):
    out = message.get("out_dir")
    if out and pathlib.Path(out, "kernels.rs").exists():
        print(out)') scripts/kernel-budget.sh | tail -n 3

  say "a day on a GPU, rehearsed behind a stand-in for the driver"
  cargo build --locked "${features[@]}" --bin glmae --example cuda_stand_in
  target=${CARGO_TARGET_DIR:-target}/debug
  python3 scripts/gpu-day/rehearse.py "$target/glmae" "$target/examples/libcuda_stand_in.so"
fi

# These kernels have a compiler of their own: the crate around them is optimised less.
quickly=(--config profile.dev.package.glmae.opt-level=1)

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
