"""Rehearses a day on a GPU without one, behind the stand-in for the CUDA driver: everything of run.sh, with steps that
hang, crash and are wrong, tools that are missing, and too little time.

    rehearse.py GLMAE STAND_IN [--long]     a program with feature cuda, and libcuda_stand_in.so

The program, its driver layer, graphs and kernels are the real ones (kernels run on the host); PyTorch, MONAI, ncu and
compute-sanitizer are played by small scripts. `--long` has what the short form, part of the tests, leaves out.
Variables of the stand-in (GLMAE_STAND_IN_...) reach it. With another compute capability than 9.0 there is no long form.
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plan

HERE = Path(__file__).resolve().parent

# Plays bench_torch.py: the same files in the same form.
PEER = '''
import json, sys, time
words = sys.argv[1:]
value = lambda flag, default: words[words.index(flag) + 1] if flag in words else default
if "{hang}" == value("--set", "-"):
    time.sleep(600)
row = lambda variant: {{"variant": variant, "ms": 2.0, "ms_min": 1.9, "ms_max": 2.2, "peak_allocated_mb": 77.0,
                       **({{"gflop": 1.0}} if value("--set", "") == "batch=1" else {{}})}}
part = {{"step": [row(v) for v in value("--variants", "eager").split(",")]}}
if value("--parts", "") == "ops":
    part = {{"ops": [{{"op": "layer_norm.fwd", "shape": [80, 96], "how": "eager", "ms": 0.5}}]}}
with open(value("--json", None), "w") as f:
    json.dump({{"meta": {{}}, "vit_b": part}}, f)
'''
# Plays compute-sanitizer: runs what it is given, except that one of its tools dies of a signal and one finds
# something, which it says where the real one says it.
SANITIZER = '''#!/usr/bin/env bash
tool=$2
[[ "$tool" == racecheck ]] && kill -SEGV $$
while [[ "$1" == --* ]]; do [[ "$1" == --log-file ]] && log=$2; shift 2; done
[[ "$GLMAE_CUDA_MEMORY" == exact ]] || exit 3
echo "========= COMPUTE-SANITIZER" > "$log"
"$@" || exit
if [[ "$tool" == initcheck ]]; then
  echo "========= Uninitialized __global__ memory read of size 4 bytes at kernel_of_the_rehearsal+0x10" >> "$log"
  echo "========= ERROR SUMMARY: 1 error" >> "$log"
  exit 9
fi
'''
# Plays ncu; a machine that does not let it read the counters says so where `refuses` is filled in.
NCU = '''#!/usr/bin/env bash
while [[ "$1" == -* ]]; do
  case "$1" in --log-file) log=$2 ;; -k) which=$2 ;; esac
  [[ "$1" == --csv ]] && shift || shift 2
done
if [[ -n "{refuses}" ]]; then echo "==ERROR== ERR_NVGPUCTRPERM - no permission" > "$log"; exit 1; fi
[[ "$which" == regex:_* ]] || exit 2
printf 'ID,Kernel Name\n0,x\n' > "$log"
'''


class Stage:
    """A bundle in a scratch folder, and an environment in which only what is meant to be there is there."""

    def __init__(self, scratch, glmae, stand_in):
        self.root = Path(scratch)
        self.bundle, self.lib, self.tools = (self.root / n for n in ("bundle", "lib", "tools"))
        for folder in (self.bundle / "bin", self.bundle / "peer", self.bundle / "data", self.lib, self.tools):
            folder.mkdir(parents=True)
        for name in ("run.sh", "day.py", "plan.py", "report.py", "shapes.txt"):
            shutil.copy(HERE / name, self.bundle / name)
        os.symlink(glmae, self.bundle / "bin/glmae")
        os.symlink(stand_in, self.lib / "libcuda.so.1")
        (self.bundle / "BUILD.json").write_text('{"commit": "rehearsal"}')
        for i in range(3):
            volume(self.bundle / f"data/scan_{i}.nii", i)
        # What only has to be found.
        site = self.bundle / "site"
        for package in ("torch", "monai"):
            (site / "packages" / package).mkdir(parents=True)
            (site / "packages" / package / "__init__.py").write_text("")
        self.peer(hang="-")
        self.script("compute-sanitizer", SANITIZER)
        self.script("ncu", NCU.replace("{refuses}", ""))

    def peer(self, hang):
        (self.bundle / "peer/bench_torch.py").write_text(PEER.format(hang=hang))

    def script(self, name, text):
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def env(self, **card):
        """With these variables of the stand-in beside those that are set here; none of the program's own."""
        env = {k: v for k, v in os.environ.items() if k.startswith("GLMAE_STAND_IN_") or not k.startswith("GLMAE_")}
        env |= {f"GLMAE_STAND_IN_{key.upper()}": value for key, value in card.items()}
        env["PATH"] = os.pathsep.join([str(self.tools), "/usr/bin", "/bin"])
        env["LD_LIBRARY_PATH"] = str(self.lib)
        return env

    def run(self, name, seconds, *words, has_driver=True, keep_work=False, **card):
        out = self.root / name
        work = self.root / "work"
        if not keep_work:
            shutil.rmtree(work, ignore_errors=True)
        env = self.env(**card)
        if not has_driver:
            env["LD_LIBRARY_PATH"] = ""
        # The interpreter of this script: another one on the path may have another PyTorch.
        command = [sys.executable, str(self.bundle / "day.py"), str(seconds), "--scale", "rehearsal", "--out", str(out),
                   "--work", str(work)]
        began = time.monotonic()
        done = subprocess.run([*command, *words], env=env, capture_output=True, text=True, timeout=seconds + 60)
        took = time.monotonic() - began
        return Outcome(name, done, out, took)


def volume(path, seed):
    """A NIfTI file of 40^3 voxels of f32, 1 mm, with a ball in noise."""
    n, noise = 40, random.Random(seed)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, n, n, n, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 16, 32)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    struct.pack_into("<2h", header, 252, 0, 1)
    for row in range(3):
        struct.pack_into("<4f", header, 280 + 16 * row, *(float(row == column) for column in range(4)))
    header[344:348] = b"n+1\0"
    voxels = (100.0 * (sum((c - n / 2) ** 2 for c in (x, y, z)) < 150) + noise.random()
              for z in range(n) for y in range(n) for x in range(n))
    path.write_bytes(bytes(header) + struct.pack(f"<{n ** 3}f", *voxels))


class Outcome:
    def __init__(self, name, done, out, took):
        self.name, self.code, self.text, self.took = name, done.returncode, done.stdout + done.stderr, took
        read = lambda file: (out / file).read_text() if (out / file).exists() else ""
        self.summary, self.failures = read("summary.md"), read("failures.txt")
        self.results = json.loads(read("results.json") or '{"steps": []}')
        self.states = {s["name"]: s["state"] for s in self.results["steps"]}
        self.files = sorted(p.name for p in out.iterdir()) if out.exists() else []

    def expect(self, what, holds):
        if not holds:
            print(f"rehearsal: {self.name}: {what}\n--- said\n{self.text}\n--- summary\n{self.summary}\n--- failures\n"
                  f"{self.failures}", file=sys.stderr)
            sys.exit(1)

    def result(self, name):
        return next(s["result"] for s in self.results["steps"] if s["name"] == name) or {}

    def state(self, name, state):
        self.expect(f"{name} is {self.states.get(name)}, not {state}", self.states.get(name) == state)


FILES = ["failures.txt", "logs.tar.gz", "results.json", "summary.md"]


def main():
    glmae, stand_in = (Path(p).resolve() for p in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as scratch:
        stage = Stage(scratch, glmae, stand_in)
        no_device(stage)
        numbers(stage)
        day = faults(stage)
        if os.environ.get("GLMAE_STAND_IN_CAPABILITY", "9.0") == "9.0":
            hopper(stage, day.result("step-B4"))
        published(stage)
        if "--long" in sys.argv:
            checked(stage)
            everything(stage)
            time_is_up(stage)
        print("rehearsal: passed")


def no_device(stage):
    for name, more in (("no driver", {"has_driver": False}), ("no device", {"faults": "no-device"})):
        day = stage.run(name, 60, **more)
        day.expect("ends with code 5", day.code == 5)
        day.expect("leaves its four files", day.files == FILES)
        day.expect("runs nothing", set(day.states.values()) == {"not run"})
        day.expect("says why", "no usable GPU" in day.summary)
    day = stage.run("a typing error", 60, "--only", "opz")
    day.expect("is a wrong call", day.code == 2 and "no step opz" in day.text)


def numbers(stage):
    """Every case of every op, through the driver layer."""
    day = stage.run("numbers", 120, "--only", "device,ops", "--all-cases")
    day.expect("all is well", day.code == 0)
    result = day.results["steps"][-1]["result"]
    day.expect("all cases are run", result["passed"] == result["cases"] > 400)


def faults(stage):
    """Kernels that crash, hang and are wrong, a peer that hangs, a tool that dies, one that is missing."""
    (stage.tools / "ncu").rename(stage.tools / "not-ncu")
    stage.peer(hang="batch=1")
    only = "doctor,device,ops,step-B4,peer-B4,peer-B1,kernels,peer-ops,sanitizer-memcheck,sanitizer-racecheck,ncu-1"
    wrong = "crash:resample,wrong:mean_pool_fwd_bf16,hang:argmax"
    day = stage.run("faults", 200, "--only", only, faults=wrong)
    day.expect("ends with code 1", day.code == 1)
    day.expect("leaves its four files", day.files == FILES)
    for name in ("doctor", "device", "step-B4", "peer-B4", "kernels", "peer-ops"):
        day.state(name, "ok")
    day.state("ops", "failed")
    day.state("peer-B1", "timeout")
    day.state("sanitizer-racecheck", "crashed")
    day.state("ncu-1", "skipped")
    for words in ("fault resample", "kernel resample", "wrong mean_pool bf16", "hang argmax", "step peer-B1: timeout"):
        day.expect(f"failures.txt has '{words}'", words in day.failures)
    day.expect("the headline is there", "| 4 | " in day.summary and "stand-in" in day.summary)
    day.expect("the peer's kernel is beside ours", "| 500.0 |" in day.summary)
    steps = [s["command"] for s in day.results["steps"] if s["name"].startswith("step-B")]
    day.expect("a step has one micro-batch, as the peer's", all("train.accumulation=1" in words for words in steps))
    # The rest, failures first; what passed is not repeated.
    (stage.tools / "not-ncu").rename(stage.tools / "ncu")
    stage.peer(hang="-")
    again = stage.run("resumed", 120, "--only", only, "--resume", str(stage.root / "faults"),
                      keep_work=True)
    order = [line.split()[2] for line in again.text.splitlines() if " s  " in line]
    again.expect("starts with what failed", order[:1] == ["ops"])
    again.expect("does not repeat what passed", "device" not in order and "step-B4" not in order)
    for name in ("doctor", "ops", "peer-B1", "ncu-1", "step-B4"):
        again.state(name, "ok")
    again.expect("ends with code 1 for the tool that dies again", again.code == 1)
    return day


def hopper(stage, step):
    """Kernels for Hopper, through the driver layer: every tile, and a step. A card with one multiprocessor has so few
    blocks that each takes many tiles."""
    tiles = [f"ops-{tile}" for tile in plan.TILES]
    day = stage.run("hopper", 150, "--only", ",".join([*tiles, "step-B4-no-overlap"]), processors="1")
    day.expect("all is well", day.code == 0)
    for name in tiles:
        result = day.result(name)
        day.expect("all cases are run", result["passed"] == result["cases"] > 40)
    day.expect("neither the grid nor the overlap is seen in the loss",
               day.result("step-B4-no-overlap")["loss"] == step["loss"])
    # That it was these kernels.
    day = stage.run("a wrong tile", 60, "--only", "ops-128x192", faults="wrong:masked_mse_fwd_bf16_hopper_128x192")
    day.expect("is noticed", day.code == 1 and "wrong masked_mse bf16" in day.failures)


def checked(stage):
    """Every access of the kernels for Hopper checked, races included."""
    ops = [word for op in ("linear", "masked_mse", "weight_norm_linear") for word in ("--op", op)]
    for tile in plan.TILES:
        env = stage.env(checked="1", processors="1") | {"GLMAE_KERNELS": f"hopper:{tile}"}
        command = [stage.bundle / "bin/glmae", "check", "ops", "--device", "cuda:0", "--dtype", "bf16", *ops]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
        if done.returncode != 0:
            sys.exit(f"rehearsal: checked {tile}\n{done.stdout}{done.stderr}")


def published(stage):
    """Results are filed away and come into a document; those of a rehearsal do not."""
    script, filed, document = HERE.parent / "gpu-results.py", stage.root / "filed", stage.root / "document.md"
    filed.mkdir()
    document.write_text("<!-- gpu:begin -->\n<!-- gpu:end -->\n")
    command = [sys.executable, script, "--results", filed, "--document", document]

    def expect(what, words, code, holds):
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        if (done.returncode != 0) != (code != 0) or not holds():
            sys.exit(f"rehearsal: results: {what}: exit {done.returncode}\n{done.stdout}{done.stderr}"
                     f"{document.read_text()}")

    expect("nothing yet", [], 0, lambda: "Not measured yet" in document.read_text())
    faults = stage.root / "faults"
    expect("a rehearsal is refused", ["--add", faults], 1, lambda: not list(filed.iterdir()))
    results = json.loads((faults / "results.json").read_text())
    (faults / "results.json").write_text(json.dumps({**results, "scale": "day", "device": "cuda (NVIDIA Card X)"}))
    expect("a day is filed", ["--add", faults], 0, lambda: "| 4 | " in document.read_text())
    day = f"nvidia-card-x/{results['began'][:10]}"
    expect("another is filed beside it", ["--add", faults], 0,
           lambda: sorted(p.name for p in (filed / day).iterdir()) == FILES and (filed / f"{day}-2").is_dir())
    expect("the document is current", ["--check"], 0, lambda: "Earlier: [" in document.read_text())
    document.write_text(document.read_text().replace("| 4 | ", "| 4 | 1"))
    expect("edited figures are found", ["--check"], 1, lambda: True)


def everything(stage):
    day = stage.run("everything", 900)
    day.expect("nothing but what is planted fails", {n for n, s in day.states.items() if s not in ("ok", "skipped")} ==
               {"sanitizer-racecheck", "sanitizer-initcheck"})
    day.expect("what a sanitizer has found is there", "kernel_of_the_rehearsal" in day.failures)
    day.expect("nothing is missing", "not reached" not in day.summary)
    day.expect("other work is no comparison", "not comparable: " in day.summary)
    print(day.summary)
    stage.script("ncu", NCU.replace("{refuses}", "yes"))
    day = stage.run("counters that are locked", 100, "--only", "doctor,kernels,ncu-1,ncu-2")
    day.state("ncu-1", "failed")
    day.state("ncu-2", "skipped")
    day.expect("says so", "ncu does not work here: ==ERROR== ERR_NVGPUCTRPERM" in day.summary)


def time_is_up(stage):
    day = stage.run("short", 25)
    day.expect("does not take longer than it has", day.took < 28)
    day.expect("did the first things", day.states["doctor"] == day.states["device"] == "ok")
    day.expect("left the last", day.states["pretrain"] == "not run" and "left, it needs" in day.summary)


if __name__ == "__main__":
    main()
