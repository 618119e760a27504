#!/usr/bin/env bash
# Writes the generated parts of the documents: the tables of ops and presets in README.md and
# docs/configuration.md, and what was measured on GPUs in docs/results.md. scripts/test.sh fails when they are not
# current.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo build --quiet
glmae="${CARGO_TARGET_DIR:-target}/debug/glmae"

# Replaces what stands between <!-- NAME:begin --> and <!-- NAME:end --> in README.md.
replace() {
  local name=$1
  shift
  "$glmae" "$@" >"README.part"
  awk -v name="$name" '
    $0 == "<!-- " name ":end -->" { inside = 0 }
    !inside { print }
    $0 == "<!-- " name ":begin -->" {
      inside = 1
      while ((getline line < "README.part") > 0) print line
    }' README.md >README.new
  mv README.new README.md
  rm README.part
}

replace ops ops --markdown
replace presets presets --markdown
"$glmae" presets --keys --markdown >docs/configuration.md
python3 scripts/gpu-results.py
