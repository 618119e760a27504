#!/usr/bin/env bash
# Compiles every kernel for sm_80, sm_86 and sm_90a, disassembles it and holds it against
# kernels/budget.txt: registers, spills, stack, shared memory, and the machine instructions that
# must and must not be there. Needs nvcc, cuobjdump and nvdisasm (scripts/cuda-toolchain.sh), no GPU.
#
#   scripts/kernel-budget.sh              print the table; fails on a breach or a missing row
#   scripts/kernel-budget.sh linear       only the kernels of kernels/linear.cu (or hopper/linear)
#   scripts/kernel-budget.sh --update     rewrite rows that are missing, stale or broken: read the diff
#   scripts/kernel-budget.sh --self-test  kernels that break each rule must be reported
#   GLMAE_BUILT=DIR scripts/kernel-budget.sh   what a build with the feature cuda has compiled is taken from
#                                         there (its OUT_DIR) and not compiled again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=check
files=()
for argument in "$@"; do
  case "$argument" in
    --update | --self-test) mode=${argument#--} ;;
    -*) echo "unknown option $argument; see the head of this script" >&2 && exit 2 ;;
    *) files+=("kernels/$argument.cu") ;;
  esac
done
[[ ${#files[@]} -gt 0 ]] || files=(kernels/*.cu kernels/hopper/*.cu)
budget=kernels/budget.txt
if [[ $mode == self-test ]]; then
  files=(tests/budget/breaches.cu tests/budget/hopper/breaches.cu)
  budget=tests/budget/budget.txt
fi

nvcc=$(scripts/cuda-toolchain.sh)
bin=$(dirname "$nvcc")
# An installed toolkit may lack the disassemblers; the pinned wheels have them.
[[ -x "$bin/cuobjdump" && -x "$bin/nvdisasm" ]] || bin=$(dirname "$(scripts/cuda-toolchain.sh --pinned)")
out=${CARGO_TARGET_DIR:-target}/kernel-budget
mkdir -p "$out"

# The machine code of one file for one architecture, out of the build, and what ptxas said of it.
take() {
  local name=$1 arch=$2 base=$3 fatbins work
  fatbins=("${GLMAE_BUILT:-/nowhere}/$name".*.fatbin)
  [[ -f "${fatbins[0]}" ]] || return 1
  work=$(mktemp -d)
  (cd "$work" && "$bin/cuobjdump" -xelf "sm_$arch" "${fatbins[0]}" >/dev/null)
  mv "$work"/*.cubin "$base.cubin" 2>/dev/null || { rmdir "$work" && return 1; }
  rmdir "$work"
  awk -v arch="'sm_$arch'" '/Compiling entry function/ { is_ours = index($0, arch) } is_ours || /\(C7/' \
    "${fatbins[0]%.fatbin}.ptxas" >"$base.ptxas"
}

# Compiles one file for one architecture unless the result is newer than every source.
compile() {
  local file=$1 arch=$2 base name
  base=${file#kernels/} && base=${base#tests/budget/} && base=${base%.cu}
  name=${base//\//_} && base="$out/$name.$arch"
  if [[ -f "$base.sass" && -z $(find kernels/include "$file" "$nvcc" -newer "$base.sass" -print -quit) ]]; then
    return
  fi
  take "$name" "$arch" "$base" ||
    "$nvcc" -cubin -arch="sm_$arch" -O3 -std=c++17 -lineinfo -Ikernels/include -Xptxas -v \
      -o "$base.cubin" "$file" 2>"$base.ptxas" || { cat "$base.ptxas" >&2 && return 1; }
  "$bin/cuobjdump" -res-usage "$base.cubin" >"$base.resources"
  "$bin/nvdisasm" -c "$base.cubin" >"$base.sass.partial"
  mv "$base.sass.partial" "$base.sass"
}
export -f compile take
export nvcc bin out
for file in "${files[@]}"; do
  archs=(80 86 90a)
  [[ $file != */hopper/* ]] || archs=(90a)
  for arch in "${archs[@]}"; do printf '%s\0%s\0' "$file" "$arch"; done
done | xargs -0 -n 2 -P "$(nproc)" bash -euo pipefail -c 'compile "$1" "$2"' _

"$nvcc" --version | tail -n 1
python3 scripts/kernel-budget.py "$mode" "$budget" "$out" "${files[@]}"
