"""What a day on a GPU came to: summary.md, results.json and failures.txt, from the results of its steps."""

import json
import os
import re
import traceback

HEADLINE = ("| volumes | glmae ms | peak MiB | PyTorch eager | compiled | ratio to the faster | PyTorch peak MiB |",
            "| --- | --- | --- | --- | --- | --- | --- |")
BAD = ("failed", "crashed", "timeout")


def plan(steps, seconds):
    """The plan as text: which steps are expected to fit into so many seconds."""
    lines, total = [f"{'step':24}{'expected':>9}{'limit':>7}{'until':>7}"], 0
    for step in steps:
        total += step.expect
        fits = "" if total <= seconds else "   not before the time is up"
        lines.append(f"{step.name:24}{step.expect:>7} s{step.limit:>5} s{total:>5} s{fits}")
    needs = sorted({need for step in steps for need in step.needs})
    lines.append(f"{len(steps)} steps; skipped where it is missing: {', '.join(needs)}")
    return "\n".join(lines)


def reason(err, result=None, log=None):
    """The line that says most of why a step has failed; `log` is what a tool around it has written."""
    failures = (result or {}).get("failures") if isinstance(result, dict) else None
    if failures:
        first = failures[0]
        return f"{len(failures)} failures, first: {first['kind']} {first['op']} {first['case']} {first['dtype']}: " \
               f"{first['message']}"[:400]
    findings = (result or {}).get("findings") if isinstance(result, dict) else None
    wrong = [f for f in findings or [] if not f["passed"]]
    if wrong:
        return f"{len(wrong)} of {len(findings)} failed, first: {wrong[0]['what']}: {wrong[0]['seen']}"[:400]
    if isinstance(result, list):
        bad = [case for case in result if not case.get("pass", True)]
        if bad:
            worst = [q["quantity"] for q in bad[0].get("quantities", []) if not q["pass"]]
            what = bad[0].get("error") or f"out of bounds: {', '.join(worst)}"
            return f"{len(bad)} of {len(result)} cases, first: {os.path.basename(bad[0]['case'])}: {what}"[:400]
    told = said(log)
    # Of a sanitizer the first finding, of ncu its first error.
    first = [line for line in told if re.match(r"=+ +(Invalid|Error|Race|Uninit|Barrier|Program hit)|==ERROR==", line)]
    if first:
        return first[0][:400]
    lines = said(err)
    telling = [line for line in lines if re.match(r"error|thread .* panicked|.*Error\b", line)]
    return (telling or lines or told or [""])[-1][:400]


def said(path):
    """The lines of a file that are not empty; none without the file."""
    try:
        return [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except (AttributeError, OSError):
        return []


def write(out, results, planned, shapes):
    """The numbers first: whatever goes wrong with the texts, those are on disk."""
    texts = {"results.json": lambda: json.dumps(results, indent=1),
             "summary.md": lambda: summary(results, planned, shapes), "failures.txt": lambda: failures(results)}
    for name, make in texts.items():
        try:
            text = make()
        except Exception:
            text = f"This could not be written; the numbers are in results.json.\n\n{traceback.format_exc()}"
        part = out / f"{name}.part"
        part.write_text(text + "\n")
        os.replace(part, out / name)


def by_name(results):
    return {step["name"]: step for step in results["steps"]}


def result(steps, name):
    return (steps.get(name) or {}).get("result") or {}


def summary(results, planned, shapes):
    steps, build = by_name(results), results["build"]
    states = {}
    for step in steps.values():
        states[step["state"]] = states.get(step["state"], 0) + 1
    lines = ["# A day on a GPU", "",
             f"{results['device'] or 'no device'}; {results['machine']}. Commit {build.get('commit', 'unknown')}, "
             f"{results['began']}, {results['seconds']:.0f} s.",
             f"Steps: {', '.join(f'{n} {state}' for state, n in sorted(states.items())) or 'none yet'}.", ""]
    if results["scale"] != "day":
        lines += ["**A rehearsal: no number here means anything.**", ""]
    lines += ["## Is it right?", ""] + correctness(steps) + [""]
    headline_rows = headline(steps)
    if headline_rows:
        lines += ["## A step of vit-b in bf16", "", *HEADLINE, *headline_rows, ""]
    others = ("step-B4-portable", "step-B4-no-overlap", "step-B4-tuned", "step-B4-single", "step-B4-f32",
              "unetr-step")
    extra = [f"{name}: {result(steps, name)['ms']:.2f} ms" for name in others if "ms" in result(steps, name)]
    unetr = [f"MONAI's UNETR step {row['how']}: {row['ms']:.2f} ms" for row in
             (result(steps, "peer-unetr").get("unetr") or []) if isinstance(row, dict) and row.get("op") == "unetr_step"
             and "ms" in row]
    if extra or unetr:
        lines += ["; ".join(extra + unetr) + ".", ""]
    kernel_rows, ceilings = kernels(steps, shapes)
    if kernel_rows:
        lines += ["## Kernels, bf16", "", ceilings, "",
                  "| op | case | pass | us | of copy | of product | portable us | PyTorch us |",
                  "| --- | --- | --- | --- | --- | --- | --- | --- |", *kernel_rows, ""]
    lines += ["## What is not done", ""]
    undone = [f"- {s['name']}: {s['state']}: {s['why'][:160]}" for s in steps.values() if s["state"] != "ok"]
    undone += [f"- {name}: not reached" for name in planned if name not in steps]
    return "\n".join(lines + (undone or ["Nothing."]))


def correctness(steps):
    lines = []
    tiles = [name for name in steps if name.startswith("ops-")]
    for name in ("device", "ops", *tiles, "parity", "steps"):
        step = steps.get(name)
        if not step:
            continue
        found, seen = step["result"], ""
        if isinstance(found, dict) and "cases" in found:
            seen = f"{found['passed']} of {found['cases']} cases of ops pass, {len(found['failures'])} fail, " \
                   f"{found['not_run']} not run"
        elif isinstance(found, dict) and "findings" in found:
            passed = sum(f["passed"] for f in found["findings"])
            seen = f"{passed} of {len(found['findings'])} checks pass"
        elif isinstance(found, list):
            seen = f"{sum(case['pass'] for case in found)} of {len(found)} cases of the PyTorch reference pass"
        lines.append(f"- {name}: **{step['state']}**. {seen or step['why'][:200]}")
    tools = [f"{s['name'][10:]} {s['state']}" for s in steps.values() if s["name"].startswith("sanitizer-")]
    if tools:
        lines.append(f"- compute-sanitizer: {', '.join(tools)}")
    return lines or ["Nothing was checked."]


def headline(steps):
    rows = []
    for batch in (1, 4, 48):
        ours = result(steps, f"step-B{batch}")
        variants = {}
        for name in (f"peer-B{batch}", f"peer-B{batch}-compile"):
            for part in result(steps, name).values():
                for row in (part.get("step", []) if isinstance(part, dict) else []):
                    if "ms" in row:
                        variants[row["variant"]] = row
        if not ours and not variants:
            continue
        def ms(row):
            return f"{row['ms']:.2f} ({row['ms_min']:.2f} to {row['ms_max']:.2f})" if row and "ms" in row else "-"
        compiled = [row for name, row in variants.items() if name.startswith("compile")]
        compiled = min(compiled, key=lambda row: row["ms"], default=None)
        fastest = min(variants.values(), key=lambda row: row["ms"], default=None)
        ratio = f"{fastest['ms'] / ours['ms']:.2f}" if fastest and "ms" in ours else "-"
        # The same work, or no comparison.
        works = [row["gflop"] for row in (ours, fastest or {}) if "gflop" in row]
        if len(works) == 2 and abs(works[0] / works[1] - 1) > 0.01:
            ratio = f"not comparable: {works[0]:.0f} and {works[1]:.0f} GFLOP"
        peak = f"{ours['peak_tensor_mb']:.0f}" if "peak_tensor_mb" in ours else "-"
        theirs = f"{fastest['peak_allocated_mb']:.0f}" if fastest and "peak_allocated_mb" in fastest else "-"
        rows.append(f"| {batch} | {ms(ours)} | {peak} | {ms(variants.get('eager'))} | {ms(compiled)} | {ratio} "
                    f"| {theirs} |")
    return rows


def peers(shapes, steps):
    """The peer's forward and backward times by our (op, sizes), the fastest of each op's variants."""
    rows = [row for part in result(steps, "peer-ops").values() if isinstance(part, dict)
            for row in part.get("ops", []) if "ms" in row]
    times = {}
    for line in shapes.read_text().splitlines():
        found = re.match(r"(\S+) (\S+)\s+# peer: (\S+) (\S+)", line)
        if not found:
            continue
        op, sizes, theirs, shape = found.groups()
        shape = [int(n) for n in shape.split(",")]
        for which in ("fwd", "bwd"):
            hits = [row["ms"] for row in rows if row["shape"] == shape and row["op"].endswith(f".{which}")
                    and (row["op"] == f"{theirs}.{which}" or row["op"].startswith(f"{theirs}_"))]
            if hits:
                times[op, numbers(sizes), which] = 1e3 * min(hits)
    return times


def numbers(sizes):
    return tuple(int(n) for n in re.sub(r"[a-z_0-9]+=|[\[\] ]", "", sizes).split(","))


def kernels(steps, shapes):
    found = result(steps, "kernels")
    portable = {(row["op"], row["case"], row["pass"]): row["us"]
                for row in result(steps, "kernels-portable").get("rows", [])}
    theirs = peers(shapes, steps)
    percent = lambda share: f"{100 * share:.0f} %" if share else "-"
    rows = []
    # Timed one launch at a time, with what the host does between them.
    single = sorted({row["op"] for row in found.get("rows", []) if not row["graph"]})
    for row in found.get("rows", []):
        case = row["case"] if len(row["case"]) < 60 else row["case"][:57] + "..."
        peer = theirs.get((row["op"], numbers(row["case"]), row["pass"]))
        before = portable.get((row["op"], row["case"], row["pass"]))
        rows.append(f"| {row['op']} | {case} | {row['pass']} | {row['us']:.1f} | {percent(row.get('share_of_copy'))} "
                    f"| {percent(row.get('share_of_gemm'))} | {f'{before:.1f}' if before else '-'} "
                    f"| {f'{peer:.1f}' if peer else '-'} |")
    c = found.get("ceilings") or {}
    told = [f"copy {c['copy_gb_s']:.0f} GB/s"] if c.get("copy_gb_s") else []
    told += [f"product {c['gemm_gflop_s'] / 1e3:.0f} TFLOP/s (our own kernel)"] if c.get("gemm_gflop_s") else []
    told = f"Measured in the same run: {', '.join(told) or 'nothing'}."
    return rows, told + (f" Not as a graph: {', '.join(single)}." if single else "")


def failures(results):
    """The first fault of each kind and op, whole; how many there are of it."""
    lines, counts = [], {}
    for step in results["steps"]:
        if step["state"] in BAD:
            lines.append(f"step {step['name']}: {step['state']} (exit {step.get('exit')}, {step['seconds']} s): "
                         f"{step['why']}\n    {' '.join(step.get('command', []))}")
        found = step["result"]
        for f in (found.get("failures", []) if isinstance(found, dict) else []):
            key = (f["kind"], f["op"], f["dtype"])
            counts[key] = counts.get(key, []) + [f]
    for (kind, op, dtype), all_of_it in counts.items():
        first = all_of_it[0]
        lines.append(f"{kind} {op} {dtype} ({len(all_of_it)} cases), first {first['case']}:\n    {first['message']}")
    return "\n".join(lines) or "nothing failed"
