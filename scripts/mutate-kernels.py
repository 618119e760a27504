#!/usr/bin/env python3
"""Injects faults into the kernels, one at a time, and requires that the tests of the op catch each.

    scripts/mutate-kernels.py                    all faults of tests/mutation/*.txt
    scripts/mutate-kernels.py layer_norm linear  those of two ops
    scripts/mutate-kernels.py --missing          those that have not been caught as they are now
    scripts/mutate-kernels.py --list             print the faults, run nothing
    scripts/mutate-kernels.py --table            docs/results-mutation.md from the last results

Builds the tests once (in target/mutation) with the emulated kernels as a shared library. Each fault
is then applied to a copy of kernels/, one object is compiled and the library linked anew, and
`emulated_kernels_follow_the_f64_reference` runs on the op: every memory access checked, three thread
schedules, f32 and bf16 against the f64 reference. Takes about five seconds a fault, which is why it is
not part of scripts/test.sh. Needs Rust, a C++ compiler and Python 3; no GPU.

Results are printed and kept in target/mutation/results.json: for every fault whether it was caught,
by which check, where, and the digest of the kernels it was tried on. Runs of single ops add up there.

A table tests/mutation/OP.txt holds the faults of kernels/OP.cu:

    == what the fault is
    file include/reduce.cuh      (optional: the file to change, kernels/OP.cu otherwise)
    test mlp                     (optional: the op whose test must fail, OP otherwise)
    catch data race              (a regular expression that the failure must contain)
    ---
    the text to replace, which occurs exactly once
    +++
    the new text

"catch differs" stands for a wrong number (a distance from the reference), "catch .*" for any check.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("GLMAE_MUTATION_TARGET", ROOT / "target/mutation")).resolve()
TEST = "ops::emulated_kernels_follow_the_f64_reference"
TIMEOUT_S = 600
RESULTS = TARGET / "results.json"
TABLE = ROOT / "docs/results-mutation.md"
# A wrong number, as a report says it.
DIFFERS = r"(output \d+|gradient of \w+): (nowhere near|[\d.]+ times what is allowed)"
# What caught a fault, by the words of the report; the first that matches names the check.
CHECKS = [
    ("race detector", r"data race"),
    ("asynchronous copies", r"asynchronous copy"),
    ("unwritten memory", r"never written"),
    ("bounds", r"past the end|bytes before|outside an array|in no allocation|null pointer|just outside|outside dynamic"),
    ("barriers", r"barrier"),
    ("warp masks", r"absent|\bmask\b"),
    ("alignment", r"misaligned"),
    ("overflow", r"overflow|division by zero"),
    ("float atomics", r"atomic on a float"),
    ("schedules", r"bits of run \d+ differ"),
    ("gaps of the gradient buffer", r"between two parameters"),
    ("f64 reference", DIFFERS),
]


class Fault:
    def __init__(self, op, text):
        head, rest = text.split("\n---\n", 1)
        self.old, self.new = (part.strip("\n") for part in rest.split("\n+++", 1))
        self.name, *options = head.splitlines()
        options = dict(line.split(" ", 1) for line in options if line.strip())
        self.op, self.catch = op, options.pop("catch")
        self.file = options.pop("file", f"{op}.cu")
        self.test = options.pop("test", op)
        if options:
            sys.exit(f"tests/mutation/{op}.txt: '{self.name}': unknown option {options}")
        self.catch = re.sub(r"\bdiffers\b", lambda _: DIFFERS, self.catch)

    def apply(self, kernels):
        path = kernels / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            return f"the old text occurs {text.count(self.old)} times in {self.file}"
        path.write_text(text.replace(self.old, self.new))
        return None


def faults(ops):
    found = []
    for table in sorted((ROOT / "tests/mutation").glob("*.txt")):
        if not ops or table.stem in ops:
            parts = re.split(r"^== ", table.read_text(), flags=re.M)[1:]
            found += [Fault(table.stem, part) for part in parts]
    return found


def digest(fault):
    """Of the fault and of all that its outcome depends on below kernels/."""
    sha = hashlib.sha256(f"{fault.file}\0{fault.old}\0{fault.new}\0{fault.catch}".encode())
    own = ROOT / f"kernels/{fault.op}.cu"
    for path in [own, *sorted((ROOT / "kernels").glob("[ei]*/*.*h"))]:
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def load_results():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table(chosen):
    """Writes the results of all faults as a document, and says which have none or missed."""
    results = load_results()
    rows, tried, missed, by = [], [], [], {}
    for fault in chosen:
        row = results.get(f"{fault.op}: {fault.name}")
        if not row or row["digest"] != digest(fault):
            missed.append(f"{fault.op}: {fault.name} (no current result)")
            continue
        tried.append(fault)
        if not row["caught"]:
            missed.append(f"{fault.op}: {fault.name} (not caught)")
            continue
        by[row["by"]] = by.get(row["by"], 0) + 1
        rows.append(f"| {fault.op} | {fault.name} | {row['by']} | `{row['at'] or fault.file}` |")
    summary = ", ".join(f"{check} {n}" for check, n in sorted(by.items(), key=lambda i: -i[1]))
    TABLE.write_text(
        "# Faults put into the kernels, and what caught them\n\n"
        "Written by `scripts/mutate-kernels.py --table` from a run of `scripts/mutate-kernels.py`. Each line is one\n"
        "fault put into one kernel (the tables are in [tests/mutation](../tests/mutation)); the test of the op then has\n"
        "to fail, for the stated reason. See [emulation](emulation.md).\n\n"
        f"{len(rows)} of {len(tried)} faults caught in {len({f.op for f in tried})} ops, by: {summary}.\n\n"
        "| op | fault | caught by | where the report points |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows) + "\n"
        + ("\nWithout: " + "; ".join(missed) + ".\n" if missed else ""))
    print(f"{len(rows)} of {len(chosen)} faults in {TABLE.relative_to(ROOT)}")
    return 1 if missed else 0


def build():
    """The test program, and how to make the kernels' library: compiler, commands by file, objects."""
    environment = {**os.environ, "GLMAE_KERNELS_SHARED": "1"}
    command = ["cargo", "test", "--locked", "--test", "main", "--no-run", "--target-dir", str(TARGET)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    program = re.search(r"Executable .*\((.+)\)", done.stderr)
    if done.returncode != 0 or not program:
        sys.exit(f"the tests do not build:\n{done.stderr}")
    recipes = TARGET.glob("debug/build/glmae-*/out/recipe")
    recipe = max(recipes, key=lambda p: p.stat().st_mtime)
    compiler, commands, objects = None, {}, []
    for line in recipe.read_text().splitlines():
        kind, rest = line.split(" ", 1)
        if kind == "link":
            compiler = rest
        elif kind == "compile":
            build, stem, arguments = rest.split(" ", 2)
            commands[build, stem] = arguments.split("\t")
        else:
            objects.append(rest)
    return ROOT / program.group(1), compiler, commands, objects


def run(program, folder, op):
    """Exit status and output of the op's test with the library of `folder`."""
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "GLMAE_OPS": op,
        "RUST_BACKTRACE": "0",
    }
    command = [str(program), TEST, "--exact", "--nocapture"]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=TIMEOUT_S,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except subprocess.TimeoutExpired:
        return 1, f"{TEST} did not end within {TIMEOUT_S} s"
    return done.returncode, done.stdout


def make_library(folder, op, compiler, commands, objects):
    """Compiles folder/kernels/OP.cu, with checks and without, and links the two with the other objects;
    the error, if any."""
    new, others = [], objects
    for build in ("checked", "plain"):
        new.append(str(folder / f"{build}.o"))
        command = [compiler, *commands[build, op], "-c", "-o", new[-1], f"kernels/{op}.cu"]
        done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            return next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        others = [o for o in others if f"/{build}/{op}/" not in o]
    library = folder / "libglmae_kernels.so"
    command = [compiler, "-shared", "-o", str(library), *new, *others]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    return done.stderr if done.returncode != 0 or len(others) + 2 != len(objects) else None


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "kernels", folder / "kernels")
    return folder


def verdict(fault, folder, program, recipe):
    """Whether the fault was caught, by what, and the place that the report names."""
    fresh(folder)
    error = fault.apply(folder / "kernels") or make_library(folder, fault.op, *recipe)
    if error:
        return False, f"NOT TRIED: {error.strip().splitlines()[0]}", None
    status, output = run(program, folder, fault.test)
    panic = re.search(r"panicked at .*?\n(.*?)(?=\nnote:|\n\n|\Z)", output, re.S)
    message = " ".join((panic.group(1) if panic else output).split())
    if status == 0:
        return False, "SURVIVED: the test passes", None
    check = next((name for name, words in CHECKS if re.search(words, message)), "another failure")
    if not re.search(fault.catch, message):
        return False, f"caught by {check}, but not by '{fault.catch}': {message[:300]}", None
    place = re.search(r"kernels/[\w/]+\.\w+:\d+", message)
    return True, check, place and place.group(0)


def main():
    options = [a for a in sys.argv[1:] if a.startswith("-")]
    ops = [a for a in sys.argv[1:] if not a.startswith("-")]
    if set(options) - {"--list", "--table", "--missing"}:
        sys.exit(__doc__)
    chosen = faults(ops)
    if not chosen:
        sys.exit(f"no faults for {ops}; tables: tests/mutation/*.txt")
    if "--table" in options:
        return table(chosen)
    if "--missing" in options:
        results = load_results()
        known = {f: results.get(f"{f.op}: {f.name}") for f in chosen}
        chosen = [f for f, r in known.items() if not (r and r["caught"] and r["digest"] == digest(f))]
    elif options:
        for fault in chosen:
            print(f"{fault.op}: {fault.name} ({fault.file})")
        return 0
    program, *recipe = build()
    folder = TARGET / "mutant"
    caught, sound = 0, None
    for fault in chosen:
        if fault.op != sound:
            error = make_library(fresh(folder), fault.op, *recipe)
            tests = {fault.op, *(f.test for f in chosen if f.op == fault.op)}
            status, output = (1, error) if error else run(program, folder, ",".join(sorted(tests)))
            if status != 0 or not re.search(r"\n[1-9]\d* cases on emulated", output):
                sys.exit(f"{fault.op} fails without a fault:\n{output}")
            print(f"{fault.op}: passes as it is", flush=True)
            sound = fault.op
        begin = time.monotonic()
        ok, what, place = verdict(fault, folder, program, recipe)
        caught += ok
        mark, at = ("caught " if ok else "MISSED "), (f" at {place}" if place else "")
        seconds = time.monotonic() - begin
        print(f"{mark} {fault.op}: {fault.name} -> {what}{at} ({seconds:.0f} s)", flush=True)
        results = load_results()
        results[f"{fault.op}: {fault.name}"] = {
            "op": fault.op, "fault": fault.name, "file": f"kernels/{fault.file}", "caught": ok,
            "by": what, "at": place, "seconds": round(seconds, 1), "digest": digest(fault)}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(f"{caught} of {len(chosen)} faults caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
