#!/usr/bin/env bash
# Runs on a GPU machine what scripts/gpu-bundle.sh built: tests, sanitizers, parity, benchmarks, the
# PyTorch peer side by side, profiles. Needs a driver and Python 3. Writes results/*.json and
# *.txt, results/summary.json, and prints one table at the end.
#
#   ./run.sh                      everything
#   ./run.sh --list               what there is to run
#   ./run.sh --only 'ops|bench'   the steps whose names match
#   ./run.sh --out DIR            where the results go (results)
#   ./run.sh --limit SECONDS      for one step (900)
#
# A step ends as ok, FAILED, unsupported (the program says it cannot do that yet) or skipped (a tool is
# not on this machine). Exit code: 0 when none failed, 1 otherwise, 5 without a GPU.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/results
only=.
limit=900
list=
while (($#)); do
  case "$1" in
    --list) list=1 ;;
    --only) only=$2 && shift ;;
    --out) out=$2 && shift ;;
    --limit) limit=$2 && shift ;;
    *) echo "unknown option $1; see the head of $0" >&2 && exit 2 ;;
  esac
  shift
done
glmae=$here/bin/glmae
tests=$here/bin/tests
export GLMAE_REQUIRE_CUDA=1 GLMAE_SHARED=$here RUST_BACKTRACE=0

# A tool of the CUDA toolkit or of Nsight, wherever it is installed.
tool() {
  command -v "$1" && return
  find /usr/local/cuda*/bin /usr/local/cuda*/compute-sanitizer /opt/nvidia /usr/lib/nsight-compute \
    -name "$1" -type f -perm -u+x 2>/dev/null | sort | tail -n 1 | grep . || true
}
sanitizer=$(tool compute-sanitizer)
ncu=$(tool ncu)
nsys=$(tool nsys)
torch=
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then torch=1; fi

names=()
needs=()
commands=()
# step NAME NEEDS COMMAND...: NEEDS is a tool that may be missing, - for none.
step() {
  names+=("$1")
  needs+=("$2")
  shift 2
  commands+=("$(printf '%q ' "$@")")
}

gpu_test=ops::cuda_kernels_follow_the_f64_reference
step doctor - "$glmae" doctor
step ops - "$tests" "$gpu_test" --exact --nocapture
for check in memcheck racecheck initcheck synccheck; do
  step "sanitizer-$check" "${sanitizer:+-}compute-sanitizer" \
    "${sanitizer:-compute-sanitizer}" --tool "$check" --error-exitcode 9 "$tests" "$gpu_test" --exact --nocapture
done
for case in "$here"/cases/*.safetensors; do
  [[ -e "$case" ]] || continue
  name=$(basename "$case" .safetensors)
  step "parity-$name" - "$glmae" verify "$case" --device cuda:0 --dtype f32 --json
done
for dtype in f32 bf16; do
  step "bench-kernels-$dtype" - "$glmae" bench kernels --device cuda:0 --dtype "$dtype" --json
done
# The shapes of vit-b (encoder 768 wide, decoder 512) at B volumes per step, two global and eight local views.
shapes() {
  local b=$1 teacher=$((2002 * b)) student=$((942 * b)) decoder=$((3738 * b))
  echo "layer_norm rows=$student,c=768"
  echo "layer_norm rows=$decoder,c=512"
  echo "linear rows=$student,in=768,out=3072,epilogue=1,bias=1"
  echo "linear rows=$teacher,in=768,out=2304,epilogue=0,bias=1"
  echo "linear rows=$decoder,in=512,out=2048,epilogue=1,bias=1"
  echo "attention 12,64$(printf ',1001%.0s' $(seq $((2 * b))))"
  echo "attention 12,64$(printf ',251%.0s' $(seq $((2 * b))))$(printf ',55%.0s' $(seq $((8 * b))))"
  echo "attention 16,32$(printf ',1001%.0s' $(seq $((2 * b))))$(printf ',217%.0s' $(seq $((8 * b))))"
}
for b in 1 4 16 48; do
  i=0
  while read -r op shape; do
    i=$((i + 1))
    step "bench-vit-b-B$b-$i-$op" - "$glmae" bench kernels --device cuda:0 --dtype bf16 --op "$op" \
      --shape "$shape" --json
  done < <(shapes "$b")
done
for dtype in f32 bf16; do
  # f32 is what there is without being asked for.
  arithmetic=()
  [[ $dtype == f32 ]] || arithmetic=(--dtype "$dtype")
  for b in 1 4 16 48; do
    step "bench-step-$dtype-B$b" - "$glmae" bench step --preset vit-b --set "train.batch=$b" \
      --device cuda:0 "${arithmetic[@]}" --json
  done
done
for b in 1 4 16 48; do
  step "peer-step-B$b" "${torch:+-}torch" \
    python3 "$here/peer/bench_torch.py" --parts step --preset vit_b --set "batch=$b"
done
step peer-ops "${torch:+-}torch" python3 "$here/peer/bench_torch.py" --parts ops --preset vit_b --set batch=4
for op in layer_norm linear attention; do
  step "ncu-$op" "${ncu:+-}ncu" "${ncu:-ncu}" --set full --clock-control none -k "regex:^${op}_" -c 8 --csv \
    --page details "$glmae" bench kernels --device cuda:0 --dtype bf16 --op "$op" --warmup 0 --repeats 1 --no-ceilings
done
step nsys-step "${nsys:+-}nsys" "${nsys:-nsys}" profile --force-overwrite true -o "$out/step" \
  "$glmae" bench step --preset vit-b --set train.batch=4 --device cuda:0 --dtype bf16 --warmup 2 --repeats 3

# Whether the driver is there and sees a device, without any toolkit.
gpu() {
  python3 - <<'PY'
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit("no CUDA driver: libcuda.so.1 is not installed")
code = cuda.cuInit(0)
count = ctypes.c_int()
if code == 0:
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
if code != 0 or count.value == 0:
    sys.exit(f"the CUDA driver sees no device (error {code}); nvidia-smi may tell why")
name = ctypes.create_string_buffer(100)
cuda.cuDeviceGetName(name, 100, 0)
print(f"{count.value} x {name.value.decode()}")
PY
}

if [[ -n "$list" ]] || ! found=$(gpu 2>&1); then
  echo "$((${#names[@]})) steps:"
  for i in "${!names[@]}"; do
    missing=
    [[ ${needs[$i]} == -* ]] || missing="   (skipped here: no ${needs[$i]})"
    [[ ${names[$i]} =~ $only ]] && echo "  ${names[$i]}$missing"
  done
  [[ -n "$list" ]] && exit 0
  echo "nothing was run: $found" >&2
  echo "copy this folder to a machine with an NVIDIA GPU and a driver of CUDA 13.0 (R580) or newer" >&2
  exit 5
fi
echo "$found"
mkdir -p "$out"
cp "$here/BUILD" "$out/BUILD"
: >"$out/status.tsv"

for i in "${!names[@]}"; do
  name=${names[$i]}
  [[ $name =~ $only ]] || continue
  begin=$SECONDS
  code=0
  if [[ ${needs[$i]} != -* ]]; then
    state=skipped
    why="no ${needs[$i]} on this machine"
  else
    timeout "$limit" bash -c "${commands[$i]}" >"$out/$name.out" 2>"$out/$name.err" || code=$?
    why=$(grep -v '^[[:space:]]*$' "$out/$name.err" | tail -n 1 | cut -c 1-200 | tr '\t' ' ' || true)
    case $code in
      0) state=ok && why= ;;
      124) state=FAILED && why="not done after $limit s" ;;
      *) state=FAILED ;;
    esac
    # Exit code 2 with these words is the program saying so itself.
    if ((code == 2)) && grep -qE 'not supported|unexpected argument' "$out/$name.err"; then state=unsupported; fi
    if head -c 1 "$out/$name.out" | grep -q '[[{]'; then mv "$out/$name.out" "$out/$name.json"; fi
  fi
  printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$state" "$code" "$((SECONDS - begin))" "$why" >>"$out/status.tsv"
  printf '%-36s %-12s %4d s  %s\n' "$name" "$state" "$((SECONDS - begin))" "$why"
done
python3 "$here/summarise.py" "$out"
