#!/usr/bin/env bash
# Tries run.sh and summarise.py without a GPU, on a bundle whose programs are stand-ins: the list, the
# refusal without a device, and, behind a stand-in for the driver, every way in which a step can end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/bundle
mkdir -p "$bundle/bin" "$bundle/cases" "$bundle/peer" "$work/driver"
cp run.sh summarise.py "$bundle/"
echo "commit none" >"$bundle/BUILD"
touch "$bundle/cases/mini.safetensors"
cat >"$bundle/bin/glmae" <<'PROGRAM'
#!/usr/bin/env bash
case "$*" in
  doctor) echo "version 0" ;;
  verify*) echo '[{"file": "mini.safetensors", "pass": true, "quantities": []}]' ;;
  *layer_norm*) sleep 60 ;;
  *bf16*) echo "error: bf16 is not supported" >&2 && exit 2 ;;
  *) echo "error: no such thing" >&2 && exit 1 ;;
esac
PROGRAM
printf '#!/usr/bin/env bash\necho "12 CUDA runs"\n' >"$bundle/bin/tests"
chmod +x "$bundle"/bin/* "$bundle/run.sh"

fail() {
  echo "gpu-bundle: $1" >&2
  cat "$work/log" >&2
  exit 1
}
# expect CODE WORDS COMMAND...: the exit code, and a line that matches WORDS in the output.
expect() {
  local code=0 want=$1 words=$2
  shift 2
  "$@" >"$work/log" 2>&1 || code=$?
  [[ $code == "$want" ]] || fail "$* exits with $code, not $want"
  grep -qE "$words" "$work/log" || fail "$* does not say '$words'"
}

bash -n run.sh
bash -n ../gpu-bundle.sh
expect 0 '^  parity-mini' "$bundle/run.sh" --list
expect 2 'unknown option --lits' "$bundle/run.sh" --lits
[[ ! -e "$bundle/results" ]] || fail "--list wrote results"

# The nearest libcuda is one that sees no device, then one that sees one.
driver() {
  printf '%s\n' '#include <string.h>' "int cuInit(unsigned f) { return f; }" \
    "int cuDeviceGetCount(int *n) { *n = $1; return 0; }" \
    'int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "stand-in", n); return d; }' |
    "${CC:-cc}" -shared -fPIC -x c -o "$work/driver/libcuda.so.1" -
}
driver 0
export LD_LIBRARY_PATH=$work/driver
expect 5 'sees no device' "$bundle/run.sh" --out "$work/results"
[[ ! -e "$work/results" ]] || fail "a run without a device wrote results"
driver 1
steps='^(doctor|ops|parity-mini|bench-kernels-.*|peer-ops|bench-vit-b-B1-1-layer_norm|bench-step-f32-B1)$'
expect 1 '^doctor .* ok ' "$bundle/run.sh" --out "$work/results" --only "$steps" --limit 1
grep -qE '^bench-kernels-f32 .* FAILED .* no such thing' "$work/log" || fail "a failure is not told"
grep -qE '^bench-kernels-bf16 .* unsupported ' "$work/log" || fail "an unsupported step is not told"
grep -qE '^bench-vit-b-B1-1-layer_norm .* FAILED .* not done after 1 s' "$work/log" || fail "no time limit"
[[ -s "$work/results/parity-mini.json" && -s "$work/results/summary.json" ]] || fail "no JSON"
expect 0 ' ok ' "$bundle/run.sh" --out "$work/good" --only '^(doctor|ops|parity-mini)$'
echo "gpu-bundle: run.sh ends as it says without a GPU, and reports every kind of step"
