#!/usr/bin/env bash
# Writes src/device/abi_generated.rs: what bindgen makes of kernels/include/abi.h. To be run after a change
# of that header; a unit test of src/device/abi.rs fails when it was not. Installs, into .tools/ and only
# when they are missing, the two pinned tools: bindgen from crates.io and libclang from PyPI.
#
#   scripts/generate-abi.sh            write the file
#   scripts/generate-abi.sh --check    fail when the file is not what bindgen makes of the header
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bindgen_version=0.72.1
libclang_version=18.1.1
header=kernels/include/abi.h
target=src/device/abi_generated.rs

bindgen=.tools/bin/bindgen
if [[ "$("$bindgen" --version 2>/dev/null)" != "bindgen $bindgen_version" ]]; then
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 cargo install --quiet --locked --root .tools --target-dir .tools/target \
    bindgen-cli --version "$bindgen_version"
  rm -rf .tools/target
fi
if [[ ! -d ".tools/libclang/libclang-$libclang_version.dist-info" ]]; then
  rm -rf .tools/libclang
  python3 -m pip install --quiet --no-deps --target .tools/libclang "libclang==$libclang_version" >&2
fi
export LIBCLANG_PATH=$PWD/.tools/libclang/clang/native

# FNV-1a, which the test computes too: the file says which header it was made from.
digest=$(python3 - "$header" <<'PYTHON'
import sys
h = 0xCBF29CE484222325
for byte in open(sys.argv[1], "rb").read():
    h = (h ^ byte) * 0x100000001B3 % 2**64
print(f"{h:016x}")
PYTHON
)

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
  echo "// Written by scripts/generate-abi.sh with bindgen $bindgen_version; not to be edited."
  echo "// FNV-1a of kernels/include/abi.h: $digest"
  echo
  "$bindgen" "$header" --rust-target 1.89 --rust-edition 2024 --use-core --disable-header-comment \
    --allowlist-item '(Glmae|GLMAE_).*' \
    --with-derive-custom-struct 'GlmaeWeights=bytemuck::Pod,bytemuck::Zeroable' \
    --with-derive-custom-struct 'Glmae(AdamScalars|AdamSegment|ViewBox|AffineMap)=PartialEq,bytemuck::Pod,bytemuck::Zeroable' \
    --rustfmt-configuration-file "$PWD/rustfmt.toml" \
    -- -x c++ -std=c++17 -Wno-pragma-once-outside-header
} >"$new"

if [[ "${1:-}" == --check ]]; then
  diff "$target" "$new" && echo "$target is current"
else
  cp "$new" "$target"
fi
