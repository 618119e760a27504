#!/usr/bin/env bash
# Prints the path of a linker for programs that shall run on older distributions: zig, which knows the
# symbols of every glibc, from a pinned wheel that is unpacked into .tools/zig. Needs no root.
set -euo pipefail

# RHEL 8, Debian 10, Ubuntu 18.10 and what is newer.
glibc=2.28
zig=ziglang==0.17.1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$root/.tools/zig
if [[ "$(cat "$folder/wheel" 2>/dev/null)" != "$zig" ]]; then
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m pip install --quiet --no-deps --target "$folder" "$zig" >&2
  chmod +x "$folder/ziglang/zig"
  echo "$zig" >"$folder/wheel"
fi
# The name tells rustc that this is a C compiler.
linker=$folder/zig-cc
printf '#!/usr/bin/env bash\nexec %q cc -target x86_64-linux-gnu.%s "$@"\n' "$folder/ziglang/zig" "$glibc" >"$linker"
chmod +x "$linker"
"$folder/ziglang/zig" version >/dev/null
echo "$linker"
