"""The steps of a day on a GPU, the most important first. Seconds are expectations until a day has shown them."""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path


# The tiles of kernels/include/hopper/gemm.cuh, and the ops that are made of such products.
TILES = ("128x256", "128x192", "64x256", "128x128", "64x64")
PRODUCTS = ("linear", "mlp", "patch_embed", "masked_mse", "weight_norm_linear", "conv3d")


@dataclass
class Step:
    name: str
    # What is expected, what is allowed, in seconds; a step is started when `least` are left.
    expect: int
    limit: int
    # A list, or a function of the results so far that gives one, or a text that says why not.
    command: object
    least: int = 0
    # Names of tools that may be missing.
    needs: tuple = ()
    # The file that holds the result when it is not what the command prints.
    out: Path = None
    # Where a tool writes what it says.
    log: Path = None
    # Whether the result is a time: nothing else may run on the device meanwhile.
    is_timed: bool = False
    # Whether it may run while the peer compiles in the background.
    fills: bool = False
    env: dict = field(default_factory=dict)

    def __post_init__(self):
        self.least = self.least or min(self.limit, self.expect)

    def shortened(self):
        """For a rehearsal: so that a step that hangs does not take its minute."""
        parts = 1 if self.name == "tune" else 3 if self.name.startswith(("ops", "step")) else 10
        self.limit = max(8, self.limit // parts)
        self.least = min(self.least, 3)


def steps(here, work, device, scale, all_cases=False):
    """`scale` is `day`, or `rehearsal`: the same steps at sizes for a stand-in of a GPU."""
    glmae = str(here / "bin/glmae")
    small = scale == "rehearsal"
    on = ["--device", device]
    found = []

    def step(name, expect, limit, command, **more):
        found.append(Step(name, expect, limit, command, **more))
        if small:
            found[-1].shortened()

    def ours(name, expect, limit, *words, **more):
        step(name, expect, limit, [glmae, *words], **more)

    def peer(name, expect, limit, *words, **more):
        out = work / f"{name}.json"
        script = here / "peer/bench_torch.py"
        step(name, expect, limit, [sys.executable, str(script), "--json", str(out), *words],
             needs=("torch", *more.pop("needs", ())), out=out, is_timed=True, **more)

    model = ["--preset", "tiny"] if small else ["--preset", "vit-b"]
    few = ["--warmup", "0", "--repeats", "2"] if small else ["--warmup", "5", "--repeats", "20"]

    def training(name, expect, limit, batch, dtype="bf16", *more, **step):
        # One micro-batch, as the peer's step has.
        ours(name, expect, limit, "bench", "step", *model, "--set", f"train.batch={batch}", "--set",
             "train.accumulation=1", *on, "--dtype", dtype, *few, *more, "--json", is_timed=True, **step)

    # Correctness, from the ground up.
    ours("doctor", 3, 20, "doctor")
    ours("device", 5, 25, "check", "device", *on, "--json")
    ops = work / "ops.json"
    ours("ops", 30, 95, "check", "ops", *on, "--out", str(ops), "--limit", "3" if small else "20", "--within",
         "30" if small else "80", *(["--first", "2"] if small and not all_cases else []), out=ops, least=20)
    # Every tile of the products on Hopper, not only those that small cases are given.
    for tile in TILES:
        found_in = work / f"ops-{tile}.json"
        ours(f"ops-{tile}", 4, 30, "check", "ops", *on, *[word for op in PRODUCTS for word in ("--op", op)],
             "--dtype", "bf16", "--out", str(found_in), "--limit", "3" if small else "20", "--within", "25",
             out=found_in, least=5, env={"GLMAE_KERNELS": f"hopper:{tile}"})
    cases = sorted((here / "cases").glob("*.safetensors"))
    if cases:
        ours("parity", 15, 45, "verify", *map(str, cases), *on, "--dtype", "f32", "--json")
    ours("steps", 15, 60, "check", "step", *on, "--steps", "2" if small else "20", "--json", least=10)
    # The headline, both sides within the same minutes.
    training("step-B4", 25, 80, 4)
    portable = {"GLMAE_KERNELS": "portable"}
    training("step-B4-portable", 20, 60, 4, env=portable)
    training("step-B4-no-overlap", 15, 60, 4, env={"GLMAE_CUDA_OVERLAP": "0"})
    peer("peer-B4", 75, 200, "--parts", "step", "--set", "batch=4", "--variants", "eager,compile", least=40)
    training("step-B1", 15, 60, 1)
    peer("peer-B1", 25, 80, "--parts", "step", "--set", "batch=1", "--variants", "eager", least=25)
    training("step-B48", 40, 110, 6 if small else 48)
    peer("peer-B48", 45, 110, "--parts", "step", "--set", "batch=48", "--variants", "eager", "--warmup", "3",
         "--repeats", "10", least=40)
    # Kernel by kernel. Which tile is the fastest for each product, beside the one that the model chose.
    tuned, batch = work / "tuning.toml", 1 if small else 4
    ours("tune", 15, 60, "tune", *model, "--set", f"train.batch={batch}", *on, "--out", str(tuned), "--repeats",
         "1" if small else "5", "--json", is_timed=True, least=10)
    training("step-B4-tuned", 15, 60, batch, env={"GLMAE_TUNING": str(tuned)})
    shapes = work / "shapes.txt"
    lines = (here / "shapes.txt").read_text().splitlines()
    if small:
        lines = ["layer_norm rows=80,c=96 # peer: layer_norm 80,96", "linear rows=80,in=64,out=48,epilogue=1,bias=1",
                 "attention 2,32,17,9"]
    shapes.write_text("\n".join(lines) + "\n")
    out = work / "kernels.json"
    ours("kernels", 70, 150, "bench", "kernels", "--shapes", str(shapes), *on, "--dtype", "bf16", "--out", str(out),
         *(["--no-ceilings", "--warmup", "0", "--repeats", "1"] if small else []), "--json", out=out, is_timed=True,
         least=40)
    both = work / "both.txt"
    of_both = [line for line in lines if line.split()[0] in (*PRODUCTS, "attention")]
    both.write_text("\n".join(of_both) + "\n")
    out = work / "kernels-portable.json"
    ours("kernels-portable", 30, 80, "bench", "kernels", "--shapes", str(both), *on, "--dtype", "bf16", "--out",
         str(out), *(["--no-ceilings", "--warmup", "0", "--repeats", "1"] if small else []), "--json", out=out,
         is_timed=True, least=20, env=portable)
    peer("peer-ops", 70, 130, "--parts", "ops", "--set", "batch=4", "--no-inductor", least=40)
    # Tools that look into the kernels.
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        log = work / f"logs/sanitizer-{tool}.log"
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--log-file", str(log), glmae,
                     "check", "ops", "--in-process", "--first", "1", *on, "--json"]
        # Tensors as allocations of their own: the tools know no others.
        step(f"sanitizer-{tool}", 45, 80, sanitizer, needs=("compute-sanitizer",), least=30, log=log,
             fills=tool == "memcheck", env={"GLMAE_CUDA_MEMORY": "exact"})
    for rank in range(3):
        log = work / f"logs/ncu-{rank + 1}.log"
        step(f"ncu-{rank + 1}", 15, 40, lambda results, rank=rank, log=log: ncu(results, rank, log, glmae, on),
             needs=("ncu",), log=log)
    # Segmentation.
    if not small:
        ours("unetr-step", 25, 60, "bench", "unetr", *on, "--dtype", "bf16", "--batch", "4", "--json", is_timed=True)
        peer("peer-unetr", 50, 100, "--parts", "unetr", "--unetr-variants", "eager,eager+channels_last",
             needs=("monai",), least=40)
    # A real pre-training, with a picture.
    data = here / "data"
    if data.is_dir():
        run, n = work / "pretrain", "2" if small else "400"
        ours("pretrain", 40, 90, "pretrain", "--config", "tiny" if small else "hippocampus", "--data", str(data),
             "--out", str(run), *on, "--steps", n, "--picture-every", n, "--resume", "never",
             *([] if small else ["--set", "train.precision=bf16"]), fills=True)
    # Details.
    training("step-B4-single", 25, 60, 4, "bf16", "--no-graph")
    training("step-B4-f32", 30, 80, 4, "f32")
    peer("peer-B1-compile", 90, 150, "--parts", "step", "--set", "batch=1", "--variants", "compile,compile+graph",
         least=60)
    return found


def warm_up(here, work):
    """Compiles the peer's step in the background, while our checks run, into the cache that the timed run reads."""
    out = work / "peer-warm.json"
    command = [sys.executable, str(here / "peer/bench_torch.py"), "--json", str(out), "--parts", "step", "--set",
               "batch=4", "--variants", "compile", "--warmup", "0", "--repeats", "1"]
    return Step("peer-warm", 100, 200, command, needs=("torch",), out=out)


def share(row):
    """Of the floor: the larger of the shares of the copy's and of the product's rate."""
    return max(row.get("share_of_copy") or 0.0, row.get("share_of_gemm") or 0.0)


def ncu(results, rank, log, glmae, on):
    """The passes that are slowest relative to their floor, as far as `kernels` has timed them."""
    found = (results.get("kernels") or {}).get("result") or {}
    is_rehearsal = "stand-in" in found.get("device", "")
    slowest = sorted((row for row in found.get("rows", []) if row["us"] >= 10 or is_rehearsal), key=share)
    if rank >= len(slowest):
        return "no kernel was timed that it could look at"
    row = slowest[rank]
    sizes = re.sub(r"[a-z_0-9]+=|[\[\] ]", "", row["case"])
    # A benchmark runs all forward passes before the first backward pass; the names tell them apart.
    which = "regex:_bwd" if row["pass"] == "bwd" else "regex:_(fwd|init|scores|update)"
    return ["ncu", "--set", "full", "--clock-control", "none", "--csv", "--page", "details", "--log-file", str(log),
            "-k", which, "-c", "3", glmae, "bench", "kernels", "--op", row["op"], "--shape", sizes, *on, "--dtype",
            "bf16", "--warmup", "0", "--repeats", "1", "--no-ceilings"]


def load(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None
