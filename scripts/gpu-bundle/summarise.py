"""Makes one table, and summary.json, of the results of run.sh. `python3 summarise.py RESULTS`"""

import json
import re
import sys
from pathlib import Path


def load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def main():
    out = Path(sys.argv[1])
    steps = []
    for line in (out / "status.tsv").read_text().splitlines():
        name, state, code, seconds, why = (line + "\t\t\t\t").split("\t")[:5]
        result = load(out / f"{name}.json")
        steps.append({"name": name, "state": state, "exit": int(code), "seconds": int(seconds),
                      "why": why, "result": result})
    counts = {}
    for step in steps:
        counts[step["state"]] = counts.get(step["state"], 0) + 1
    (out / "summary.json").write_text(json.dumps({"counts": counts, "steps": steps}, indent=1))

    rows = []
    for step in steps:
        result = step["result"]
        for row in (result or {}).get("rows", []) if isinstance(result, dict) else []:
            copy, gemm = row.get("share_of_copy"), row.get("share_of_gemm")
            case = row["case"] if len(row["case"]) < 48 else row["case"][:45] + "..."
            rows.append([row["op"], case, result["dtype"], row["pass"] + ("*" if row["graph"] else ""),
                         f"{row['us']:.1f}", f"{100 * row['spread']:.0f} %", f"{row['gb_s']:.0f}",
                         f"{100 * copy:.0f} %" if copy else "-", f"{row['gflop_s'] / 1e3:.1f}",
                         f"{100 * gemm:.0f} %" if gemm else "-"])
    if rows:
        print("\nkernels (* replayed as a graph)")
        head = ["op", "case", "dtype", "pass", "us", "spread", "GB/s", "of copy", "TFLOP/s", "of GEMM"]
        table([head, *rows])

    ours, peer = {}, {}
    for step in steps:
        result = step["result"]
        found = re.fullmatch(r"bench-step-(\w+)-B(\d+)", step["name"])
        if found and isinstance(result, dict):
            ours[found[1], int(found[2])] = result
        found = re.fullmatch(r"peer-step-B(\d+)", step["name"])
        if found and isinstance(result, dict):
            peer[int(found[1])] = fastest(result)
    if ours or peer:
        print("\nsteps of vit-b, ms")
        lines = [["batch", "glmae f32", "glmae bf16", "PyTorch (best variant)", "ratio to bf16"]]
        for b in sorted({k[1] for k in ours} | set(peer)):
            f32, bf16 = (ours.get((d, b), {}).get("ms") for d in ("f32", "bf16"))
            ms, variant = peer.get(b) or (None, "-")
            ratio = f"{ms / bf16:.2f}x" if ms and bf16 else "-"
            text = [f"{v:.1f}" if v else "-" for v in (f32, bf16)]
            lines.append([str(b), *text, f"{ms:.1f} {variant}" if ms else "-", ratio])
        table(lines)

    for step in steps:
        if step["state"] in ("FAILED", "unsupported", "skipped"):
            print(f"{step['state']}: {step['name']}: {step['why']}")
    print(", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
    sys.exit(1 if counts.get("FAILED") else 0)


def fastest(result):
    """The least median of any variant in a result of bench_torch.py, wherever it stands."""
    best = None
    stack = [("", result)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            if isinstance(value.get("ms"), (int, float)):
                if best is None or value["ms"] < best[0]:
                    best = (value["ms"], str(value.get("variant", name)))
            stack += list(value.items())
        elif isinstance(value, list):
            stack += [(name, v) for v in value]
    return best


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())


if __name__ == "__main__":
    main()
