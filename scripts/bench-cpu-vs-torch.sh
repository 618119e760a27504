#!/usr/bin/env bash
# Times whole training steps of glmae and of the PyTorch reference (eager and compiled) on this CPU, in
# turns, so that what else the machine does hits all three alike: A B C, A B C, ... Prints medians, ratios
# of medians and peak memory; with a path, writes everything as JSON too.
#
#   scripts/bench-cpu-vs-torch.sh [RESULTS.json]
#
# Environment: PRESET (small), THREADS (2), ROUNDS (5), REPEATS of a round (7), PYTHON (one with
# torch, numpy and safetensors; else a venv is made in .venv/torch), GLMAE_SHARED (../shared, which holds
# the reference as peer/), GLMAE (the binary; else a release build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${PRESET:-small} threads=${THREADS:-2} rounds=${ROUNDS:-5} repeats=${REPEATS:-7}
peer="${GLMAE_SHARED:-../shared}/peer"
if [[ ! -f "$peer/bench_torch.py" ]]; then
  echo "no PyTorch reference in $peer: set GLMAE_SHARED to the folder that holds peer/" >&2
  exit 3
fi
peer=$(cd "$peer" && pwd)

python=${PYTHON:-.venv/torch/bin/python}
if ! "$python" -c 'import numpy, safetensors, torch' 2>/dev/null; then
  if [[ -n "${PYTHON:-}" ]]; then
    echo "$PYTHON has no torch, numpy or safetensors" >&2
    exit 3
  fi
  echo "installing PyTorch into .venv/torch" >&2
  python3 -m venv .venv/torch
  .venv/torch/bin/pip install --quiet torch==2.13.0 numpy safetensors >&2
fi

glmae=${GLMAE:-}
if [[ -z "$glmae" ]]; then
  cargo build --release --locked --quiet
  glmae="${CARGO_TARGET_DIR:-target}/release/glmae"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

torch_step() { # VARIANT FILE
  # No byte code beside the reference: its folder may be read-only.
  PYTHONDONTWRITEBYTECODE=1 "$python" "$peer/bench_torch.py" --device cpu --dtype fp32 \
    --parts step --preset "$preset" \
    --threads "$threads" --variants "$1" --repeats "$repeats" --json "$2" >/dev/null 2>"$work/log" ||
    { cat "$work/log" >&2; exit 1; }
}

for ((round = 1; round <= rounds; round++)); do
  echo "round $round of $rounds" >&2
  "$glmae" bench step --preset "$preset" --device cpu --threads "$threads" --repeats "$repeats" --json \
    >"$work/glmae.$round.json"
  torch_step eager "$work/eager.$round.json"
  torch_step compile "$work/compile.$round.json"
done

"$python" - "$work" "$rounds" "${1:-}" <<'PYTHON'
import json, platform, statistics, sys

work, rounds, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def step(tree):
    """The one row with a median time, wherever the reference's JSON has it."""
    if isinstance(tree, dict):
        if "ms" in tree and "gflop" in tree:
            return tree
        tree = list(tree.values())
    rows = [r for r in map(step, tree) if r] if isinstance(tree, list) else []
    return rows[0] if rows else None


runs = {}
for name in ("glmae", "eager", "compile"):
    runs[name] = [step(json.load(open(f"{work}/{name}.{i}.json"))) for i in range(1, rounds + 1)]
    if None in runs[name]:
        sys.exit(f"{name}: a round brought no time")
result = {"machine": platform.platform(), "threads": runs["glmae"][0]["threads"],
          "preset": runs["glmae"][0]["preset"], "rounds": rounds, "engines": {}}
for name, rows in runs.items():
    times = [r["ms"] for r in rows]
    result["engines"][name] = {
        "ms": statistics.median(times), "ms_of_rounds": times, "gflop": rows[0]["gflop"],
        "gflop_per_s": 1e3 * rows[0]["gflop"] / statistics.median(times),
        "peak_rss_mb": max(r["peak_rss_mb"] or 0 for r in rows)}
ours = result["engines"]["glmae"]
print(f"preset {result['preset']}, {ours['gflop']:.3f} GFLOP, {result['threads']} threads, "
      f"medians of {rounds} rounds")
print(f"{'':16}{'ms':>9}{'of rounds':>18}{'GFLOP/s':>10}{'MiB':>8}{'times glmae':>14}")
labels = {"glmae": "glmae", "eager": "PyTorch eager", "compile": "PyTorch compiled"}
for name, e in result["engines"].items():
    e["ratio"] = e["ms"] / ours["ms"]
    spread = f"{min(e['ms_of_rounds']):.1f} to {max(e['ms_of_rounds']):.1f}"
    print(f"{labels[name]:16}{e['ms']:9.1f}{spread:>18}{e['gflop_per_s']:10.1f}{e['peak_rss_mb']:8.0f}"
          f"{e['ratio']:14.2f}")
if target:
    with open(target, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
PYTHON
