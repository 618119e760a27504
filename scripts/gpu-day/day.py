"""Runs the plan of plan.py within so many seconds; see run.sh. Python's standard library only.

Each step is a process group of its own with a limit. A step that hangs or crashes costs its limit, not the day: it is
killed, the device is asked whether it still answers, and the next step starts. Nothing starts that cannot end. Every
result is on disk before the next step begins.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import plan
import report

# For writing the last results.
RESERVE_S = 4
# The first process on a machine may start the driver, and reads the program from a cold disk.
FIRST_PROBE_S, PROBE_S = 90, 25
# For the peer's compilation, before the first timed step.
PATIENCE_S = 15
# What says that a tool does not work here at all.
UNUSABLE = re.compile(r"ERR_NVGPUCTRPERM|LibraryNotLoaded|[Dd]evice not supported|No supported")
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/nvidia/nsight-compute",
          "/usr/lib/nsight-compute")


def main():
    args = arguments()
    here = Path(__file__).resolve().parent
    work = args.work or here / "work"
    work.mkdir(parents=True, exist_ok=True)
    device = "cuda:0"
    steps = plan.steps(here, work, device, args.scale, args.all_cases)
    names = [step.name for step in steps]
    only = args.only.split(",") if args.only else names
    unknown = sorted(set(only) - set(names))
    if unknown:
        sys.exit(usage(f"no step {', '.join(unknown)}; there are {', '.join(names)}"))
    steps = [step for step in steps if step.name in only]
    before = {}
    if args.resume:
        found = args.resume / "results.json" if args.resume.is_dir() else args.resume.with_name("results.json")
        before = {s["name"]: s for s in (plan.load(found) or {}).get("steps", [])}
        if not before:
            sys.exit(usage(f"{args.resume} holds no results of a day"))
        steps = left(steps, before)
    if args.list:
        print(report.plan(steps, args.seconds))
        return 0
    return Day(args, here, work, steps, names, before).run()


def arguments():
    parser = argparse.ArgumentParser(description="A day on a GPU; see run.sh.")
    parser.add_argument("seconds", type=int, help="that there are")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="the results of a day before: do what is left of "
                        "it, failures first")
    parser.add_argument("--list", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--out", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--work", type=Path, help="for caches and logs (work, beside run.sh)")
    parser.add_argument("--only", metavar="NAMES", help="only these steps")
    parser.add_argument("--all-cases", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scale", choices=("day", "rehearsal"), default="day", help=argparse.SUPPRESS)
    return parser.parse_args()


def usage(text):
    print(f"error: {text}", file=sys.stderr)
    return 2


def left(steps, before):
    """What did not end well comes first, then what was not run; what is done is not repeated."""
    def state(step):
        return before.get(step.name, {}).get("state", "not run")
    again = [s for s in steps if state(s) in ("failed", "crashed", "timeout")]
    return again + [s for s in steps if state(s) in ("not run", "skipped")]


def tool(name):
    """Where a tool of the toolkit or of Nsight is, if it is installed."""
    found = shutil.which(name)
    if found:
        return found
    for place in PLACES:
        hits = sorted(p for p in Path(place).rglob(name) if p.is_file() and os.access(p, os.X_OK)) \
            if Path(place).is_dir() else []
        if hits:
            return str(hits[-1])
    return None


def distribution():
    try:
        release = platform.freedesktop_os_release()
    except (AttributeError, OSError):
        return platform.platform()
    return " ".join(release.get(key, "") for key in ("NAME", "VERSION_ID")).strip()


def module(name, env):
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"
    return subprocess.run([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL).returncode == 0


class Day:
    def __init__(self, args, here, work, steps, order, before):
        self.begin = time.monotonic()
        self.args, self.here, self.work, self.steps, self.order = args, here, work, steps, order
        self.results = dict(before)
        self.background = None
        self.lost = None
        self.meta = {"build": plan.load(here / "BUILD.json") or {}, "scale": args.scale,
                     "machine": f"{platform.machine()}, {os.cpu_count()} processors, {distribution()}",
                     "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "device": None, "seconds": 0}
        self.logs = work / "logs"
        self.logs.mkdir(exist_ok=True)
        args.out.mkdir(parents=True, exist_ok=True)
        wheels = [str(p) for p in sorted((here / "site").iterdir())] if (here / "site").is_dir() else []
        self.env = dict(os.environ, RUST_BACKTRACE="0", PYTHONUNBUFFERED="1",
                        TORCHINDUCTOR_CACHE_DIR=str(work / "inductor"), TRITON_CACHE_DIR=str(work / "triton"),
                        PYTHONPATH=os.pathsep.join([*wheels, *filter(None, [os.environ.get("PYTHONPATH")])]))
        self.missing = {}

    def spent(self):
        return time.monotonic() - self.begin

    def remaining(self):
        return self.args.seconds - self.spent() - RESERVE_S

    def run(self):
        self.save()
        if not self.has_device():
            return 5
        if any(step.name == "peer-B4" for step in self.steps):
            self.start_background(plan.warm_up(self.here, self.work))
        pending = list(self.steps)
        while pending:
            step = pending.pop(0)
            if step.is_timed and self.is_compiling():
                # Rather than wait for the peer: what is not timed.
                filler = next((s for s in pending if s.fills and s.expect < self.remaining() / 4), None)
                if filler:
                    pending.remove(filler)
                    self.one(filler)
                    self.save()
            self.one(step)
            self.save()
        self.end_background(0)
        self.save()
        print("\n" + (self.args.out / "summary.md").read_text())
        bad = [r for r in self.results.values() if r["state"] in ("failed", "crashed", "timeout")]
        return 1 if bad else 0

    def has_device(self):
        """Without a device nothing else makes sense, and the reason is the only result."""
        probe = self.probe(FIRST_PROBE_S)
        if probe is None:
            return True
        self.lost = f"no usable GPU: {probe}"
        for step in self.steps:
            self.note(step, "not run", self.lost)
        self.save()
        print(self.lost, file=sys.stderr)
        return False

    def probe(self, seconds):
        """Why the device does not answer, or nothing."""
        seconds = min(seconds, max(self.remaining(), 1))
        command = [str(self.here / "bin/glmae"), "check", "device", "--device", "cuda:0", "--json"]
        log = self.logs / "probe"
        code, state = self.execute(command, seconds, log, self.env)
        self.meta["device"] = (plan.load(log.with_suffix(".out")) or {}).get("device") or self.meta["device"]
        # A device whose checks fail is there all the same: the checks are a step, and say what fails.
        if state == "timeout":
            return f"no answer within {seconds:.0f} s"
        return None if code in (0, 1) else report.reason(log.with_suffix(".err"))

    def one(self, step):
        if self.lost:
            return self.note(step, "not run", self.lost)
        missing = self.what_is_missing(step)
        if missing:
            return self.note(step, "skipped", missing)
        if step.is_timed:
            # Nothing beside a timed step.
            self.end_background(min(PATIENCE_S, max(0, self.remaining() - step.least)))
        if self.remaining() < step.least:
            return self.note(step, "not run", f"{self.remaining():.0f} s were left, it needs {step.least}")
        command = step.command(self.results) if callable(step.command) else step.command
        if isinstance(command, str):
            return self.note(step, "skipped", command)
        command = [self.tools.get(command[0], command[0]), *command[1:]] if step.needs else command
        limit = min(step.limit, self.remaining())
        log = self.logs / step.name
        for old in filter(None, (step.out, step.log)):
            old.unlink(missing_ok=True)
        began = time.monotonic()
        code, state = self.execute(command, limit, log, self.env | step.env)
        seconds = time.monotonic() - began
        result = plan.load(step.out) if step.out else None
        result = result or plan.load(log.with_suffix(".out"))
        why = "" if state == "ok" else report.reason(log.with_suffix(".err"), result, step.log)
        if state == "crashed":
            why = f"ended by signal {abs(code) % 128}" + (f"; {why}" if why else "")
        if state == "timeout":
            why = f"not done after {limit:.0f} s" + (f"; {why}" if why else "")
        self.results[step.name] = {"name": step.name, "state": state, "exit": code, "seconds": round(seconds, 1),
                                   "why": why, "command": command, "result": result}
        print(f"{self.spent():6.0f} s  {step.name:22} {state:8} {seconds:5.1f} s  {why[:140]}", flush=True)
        if step.needs and state == "failed" and UNUSABLE.search(why):
            self.missing[step.needs[0]] = f"{step.needs[0]} does not work here: {why}"
        # A step that was cut short by the end of the day says nothing of the device.
        is_suspect = state == "crashed" or code == 5 or (state == "timeout" and limit == step.limit)
        if is_suspect and self.remaining() > 1:
            self.save()
            probe = self.probe(PROBE_S) and self.probe(PROBE_S)
            if probe:
                self.lost = f"the device no longer answers after {step.name}: {probe}"
                self.end_background(0)

    def note(self, step, state, why):
        # What an earlier day has found out stands.
        if self.results.get(step.name, {}).get("state") in ("failed", "crashed", "timeout"):
            return
        self.results[step.name] = {"name": step.name, "state": state, "seconds": 0, "why": why, "result": None}
        print(f"{self.spent():6.0f} s  {step.name:22} {state:8}          {why[:140]}", flush=True)

    tools = {}

    def what_is_missing(self, step):
        for need in step.needs:
            if need not in self.missing:
                if need in ("torch", "monai"):
                    is_there = module(need, self.env)
                else:
                    self.tools[need] = tool(need)
                    is_there = self.tools[need] is not None
                self.missing[need] = None if is_there else f"no {need} on this machine"
            if self.missing[need]:
                return self.missing[need]
        return None

    def execute(self, command, limit, log, env):
        """Exit code and state of a command, which writes to LOG.out and LOG.err."""
        process = start(command, log, env)
        try:
            code = process.wait(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            stop(process)
            return None, "timeout"
        # What it has left behind must not disturb the next step.
        stop(process)
        # A shell and our program both say a signal so.
        if code < 0 or code > 128:
            return code, "crashed"
        return code, "ok" if code == 0 else "failed"

    def start_background(self, step):
        if self.what_is_missing(step) is None:
            log = self.logs / step.name
            self.background = (step, start(step.command, log, self.env), time.monotonic())

    def is_compiling(self):
        return self.background is not None and self.background[1].poll() is None

    def end_background(self, patience):
        if not self.background:
            return
        step, process, began = self.background
        self.background = None
        try:
            code = process.wait(timeout=max(min(patience, step.limit - (time.monotonic() - began)), 0.1))
            state = "ok" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            code, state = None, "timeout"
        stop(process)
        seconds = time.monotonic() - began
        print(f"{self.spent():6.0f} s  {step.name:22} {state:8} {seconds:5.1f} s  (in the background)", flush=True)
        self.meta["peer_warm_up"] = {"state": state, "seconds": round(seconds, 1)}

    def save(self):
        self.meta["seconds"] = round(self.spent(), 1)
        known = [self.results[name] for name in self.order if name in self.results]
        results = {**self.meta, "steps": known}
        report.write(self.args.out, results, [s.name for s in self.steps], self.work / "shapes.txt")
        with tarfile.open(self.args.out / "logs.tar.gz.part", "w:gz") as tar:
            for path in sorted(self.logs.iterdir()):
                tar.add(path, path.name, filter=shortened)
            for picture in sorted((self.work / "pretrain").rglob("*.png"))[-2:]:
                tar.add(picture, f"pictures/{picture.name}")
        os.replace(self.args.out / "logs.tar.gz.part", self.args.out / "logs.tar.gz")


def shortened(entry):
    """Logs of more than 4 MiB stay behind: the whole must come back as a small file."""
    return entry if entry.size <= 4 << 20 else None


def start(command, log, env):
    with open(log.with_suffix(".out"), "wb") as out, open(log.with_suffix(".err"), "wb") as err:
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env,
                                    start_new_session=True)
        except OSError as error:
            err.write(f"error: {error}\n".encode())
            return subprocess.Popen(["false"])


def stop(process):
    """Ends a process and all it has started; one that waits in the driver may not end at all."""
    for sign, patience in ((signal.SIGTERM, 2), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):
            break
        if process.returncode is not None:
            continue
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    # Should it still be there, it is nobody's child any more.
    threading.Thread(target=process.wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
