"""Judges the disassembled kernels against a budget file. Called by kernel-budget.sh.

A budget file has two kinds of lines besides comments:

    class NAME REGEX          machine instructions that rows and rules speak of: a mnemonic, for CALL
                              with its target (spaces as \\s)
    never NAME                no kernel may contain this class, unless its row allows it
    KERNEL ARCH regs=N shared=N stack=N [must CLASS>=N ...] [exactly CLASS=N ...] [allow CLASS ...]

regs: registers per thread at most. shared: static shared memory in bytes at most (dynamic shared
memory belongs to the launch). stack: bytes of stack, spills included, at most.

What ptxas says about products of warpgroups that it had to serialise, or registers that it did not hand over (C75xx and
C76xx, which are no warnings to it), is a breach of every kernel of the file.
"""

import math
import re
import sys
from pathlib import Path

ARCHS = ["80", "86", "90a"]
# Per SM: warps, blocks, KiB of shared memory.
SM = {"80": (64, 32, 164), "86": (48, 16, 100), "90a": (64, 32, 228)}
# Classes that --update asks a new kernel to keep, and of a kernel for Hopper, to which the second ones apply.
WANTED = ["load128", "store128", "cp_async128", "ldmatrix_x4", "mma", "exp2"]
WANTED_HOPPER = ["wgmma", "tma_load", "tma_store", "stmatrix_x4", "fence_async", "exp2"]
EXACTLY_HOPPER = {"mma": 0, "set_registers": 2}
# Each group of four products has one wait, and each tile two more.
WAITS = ("wgmma_wait", "wgmma")


class Row:
    def __init__(self, regs, shared, stack, must, exactly, allow):
        self.regs, self.shared, self.stack = regs, shared, stack
        self.must, self.exactly, self.allow = must, exactly, allow

    def text(self, kernel, arch):
        words = f"{kernel:<40} {arch:<4} regs={self.regs} shared={self.shared} stack={self.stack}"
        if self.must:
            words += " must " + " ".join(f"{c}>={n}" for c, n in self.must.items())
        if self.exactly:
            words += " exactly " + " ".join(f"{c}={n}" for c, n in self.exactly.items())
        if self.allow:
            words += " allow " + " ".join(self.allow)
        return words


def read_budget(path):
    classes, never, rows, head = {}, [], {}, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split("#")[0].split()
        try:
            if not words:
                pass
            elif words[0] == "class":
                classes[words[1]] = re.compile(words[2])
            elif words[0] == "never":
                never.append(words[1])
            else:
                numbers = dict(w.split("=") for w in words[2:5])
                must, exactly, allow, target = {}, {}, [], None
                for word in words[5:]:
                    if word in ("must", "exactly", "allow"):
                        target = word
                    elif target == "exactly":
                        name, count = word.split("=")
                        exactly[name] = int(count)
                    elif target == "must":
                        name, count = word.split(">=")
                        must[name] = int(count)
                    elif target == "allow":
                        allow.append(word)
                    else:
                        raise ValueError(word)
                limits = [int(numbers[k]) for k in ("regs", "shared", "stack")]
                if (words[0], words[1]) in rows:
                    raise ValueError("second row")
                rows[words[0], words[1]] = Row(*limits, must, exactly, allow)
        except (ValueError, KeyError, IndexError) as error:
            sys.exit(f"{path}:{number}: cannot read this row ({error!r})")
        if len(rows) == 0:
            head.append(line)
    unknown = {c for row in rows.values() for c in [*row.must, *row.exactly, *row.allow]} | set(never)
    if unknown - set(classes):
        sys.exit(f"{path}: unknown classes {sorted(unknown - set(classes))}")
    return classes, never, rows, head


def exported(source):
    """The exported kernels of a file and their threads per block, a number or a constant."""
    text = source.read_text()
    found = re.findall(r"^GLMAE_KERNEL\((\w+), *(\w+)\)", text, re.M)
    found += re.findall(r"^GLMAE_INSTANCE\((\w+), *\w+, *\((\w+)", text, re.M)
    found += re.findall(r"^GLMAE_HOPPER\((\w+), *\((\w+)", text, re.M)
    for f32, bf16, threads in re.findall(r"^GLMAE_TWINS\((\w+), *(\w+), *\((\w+)", text, re.M):
        found += [(f32, threads), (bf16, threads)]
    texts = [source, *sorted(Path("kernels/include").rglob("*.cuh"))]
    named = re.findall(r"constexpr int (\w+) = (\d+);", "".join(p.read_text() for p in texts))
    named = {name: int(value) for name, value in named}
    return {name: int(threads) if threads.isdigit() else named.get(threads, 1024)
            for name, threads in found}


def measure(base, classes):
    """Per function of one cubin: resources, spilled bytes and the number of instructions by class."""
    resources = re.compile(r"Function (\w+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    found = {}
    for name, *n in resources.findall(Path(f"{base}.resources").read_text()):
        regs, stack, shared, local = map(int, n)
        # sm_90 counts 1 KiB that the system keeps.
        shared -= 1024 if base.endswith(".90a") and shared >= 1024 else 0
        found[name] = {"regs": regs, "stack": stack + local, "shared": shared, "classes": {}}
    spills = re.compile(
        r"Function properties for (\w+)\s+\d+ bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads"
    )
    for name, stores, loads in spills.findall(Path(f"{base}.ptxas").read_text()):
        if name in found:
            found[name]["spills"] = int(stores) + int(loads)
    instruction = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;\n]*)", re.M)
    for part in re.split(r"^\.text\.", Path(f"{base}.sass").read_text(), flags=re.M)[1:]:
        name, body = part.split(":\n", 1)
        # Of a call the target matters: division is a function, and so is the slow path of a shuffle.
        texts = [m + re.sub(r"[`()]", "", o) if m.startswith("CALL") else m
                 for m, o in instruction.findall(body)]
        if name not in found or len(texts) < 4:
            sys.exit(f"{base}.sass: cannot read function {name}")
        found[name]["instructions"] = len(texts)
        for c, pattern in classes.items():
            found[name]["classes"][c] = sum(1 for t in texts if pattern.fullmatch(t.strip()))
    return found


# The number of what ptxas says, and the function.
SERIALISED = re.compile(r"\((C7[56]\d\d)\)")


def warps_per_sm(arch, regs, threads, shared):
    """Resident warps by registers, threads and static shared memory (CUDA occupancy rules)."""
    warps, blocks, kib = SM[arch]
    per_block = math.ceil(threads / 32)
    by_regs = 65536 // (math.ceil(max(regs, 1) * 32 / 256) * 256) // 4 * 4
    room = (math.ceil(shared / 128) * 128) + 1024
    return min(blocks, warps // per_block, by_regs // per_block, kib * 1024 // room) * per_block


def judge(m, row, never):
    breaches = []
    for key in ("regs", "shared", "stack"):
        if m[key] > getattr(row, key):
            breaches.append(f"{key} {m[key]} > {getattr(row, key)}")
    if m.get("spills", -1) != 0 and row.stack == 0:
        breaches.append(f"spills {m.get('spills', 'unknown')}")
    for name, count in row.must.items():
        if m["classes"][name] < count:
            breaches.append(f"{name} {m['classes'][name]} < {count}")
    for name, count in row.exactly.items():
        if m["classes"][name] != count:
            breaches.append(f"{name} {m['classes'][name]}, not {count}")
    waits, products = (m["classes"].get(name, 0) for name in WAITS)
    if products and waits > products / 4 + 2:
        breaches.append(f"{waits} waits for {products} products")
    for name in never:
        if m["classes"][name] and name not in row.allow:
            breaches.append(f"{m['classes'][name]} {name}")
    return breaches


def propose(m, old, never):
    wanted = WANTED_HOPPER if m["classes"].get("wgmma") else WANTED
    must = dict(old.must) if old else {c: 0 for c in wanted if m["classes"].get(c)}
    exactly = old.exactly if old else EXACTLY_HOPPER if wanted is WANTED_HOPPER else {}
    for c in must:
        # Three quarters: another compiler may unroll a little less.
        if not old or m["classes"][c] < must[c]:
            must[c] = max(1, m["classes"][c] * 3 // 4)
    fits = old and old.regs >= m["regs"]
    # Registers are given to warps in units of eight per thread.
    regs = old.regs if fits else math.ceil(m["regs"] / 8) * 8
    shared = max(old.shared if old else 0, m["shared"])
    allow = [c for c in never if m["classes"][c] and old and c in old.allow]
    return Row(regs, shared, max(old.stack if old else 0, m["stack"]), must, exactly, allow)


def main():
    mode, budget, out, *sources = sys.argv[1:]
    budget = Path(budget)
    classes, never, rows, head = read_budget(budget)
    breaches, seen, table, proposed, measured = [], set(), [], {}, {}
    for source in map(Path, sources):
        kernels = exported(source)
        is_hopper = source.parent.name == "hopper"
        for arch in ARCHS[-1:] if is_hopper else ARCHS:
            base = f"{out}/{'hopper_' if is_hopper else ''}{source.stem}.{arch}"
            found = measure(base, classes)
            for said in sorted(set(SERIALISED.findall(Path(f"{base}.ptxas").read_text()))):
                breaches.append(f"{source} {arch}: ptxas says {said}")
            cubin = Path(f"{base}.cubin").read_bytes()
            for word in (b"vprintf", b"__assertfail"):
                if word in cubin:
                    breaches.append(f"{source} {arch}: contains {word.decode()}")
            if b".debug_line" not in cubin and b".nv_debug_line_sass" not in cubin:
                breaches.append(f"{source} {arch}: no line information")
            for name in sorted(set(kernels) ^ set(found)):
                what = "not in the cubin" if name in kernels else "no GLMAE_KERNEL line"
                breaches.append(f"{name} {arch}: {what}")
            for name in sorted(set(kernels) & set(found)):
                m, row = found[name], rows.get((name, arch))
                seen.add((name, arch))
                measured[name, arch] = m
                wrong = judge(m, row, never) if row else [f"no row in {budget}"]
                breaches += [f"{name} {arch}: {w}" for w in wrong]
                proposed[name, arch] = row if row and not wrong else propose(m, row, never)
                counts = " ".join(f"{c}={n}" for c, n in m["classes"].items() if n)
                warps = warps_per_sm(arch, m["regs"], kernels[name], m["shared"])
                limit = row.regs if row else "-"
                table.append(
                    f"{name:<40} {arch:<4} {m['regs']:>4} {limit:>5} {m.get('spills', -1):>6} "
                    f"{m['stack']:>5} {m['shared']:>6} {warps:>5} {m['instructions']:>6}  {counts}"
                )
    all_files = [*Path("kernels").glob("*.cu"), *Path("kernels/hopper").glob("*.cu")]
    whole = {str(p) for p in all_files} <= set(sources)
    if whole or mode == "self-test":
        for name, arch in sorted(set(rows) - seen):
            breaches.append(f"{name} {arch}: a row without a kernel")
    print(
        f"{'kernel':<40} arch regs limit spills stack static warps   SASS  instructions by class\n"
        + "\n".join(sorted(table))
    )
    if mode == "update":
        keep = {} if whole else {k: r for k, r in rows.items() if k not in seen}
        lines = [row.text(*key) for key, row in sorted({**keep, **proposed}.items())]
        budget.write_text("\n".join(head).rstrip() + "\n\n" + "\n".join(lines) + "\n")
        print(f"{budget} rewritten; `git diff {budget}` shows what was raised")
        # What no row can excuse stays an error.
        fatal = [f"{n} {a}: {w}" for (n, a), m in measured.items() for w in judge(m, proposed[n, a], never)]
        breaches = [b for b in breaches if ".cu " in b or "GLMAE_KERNEL" in b or "the cubin" in b] + fatal
    if mode == "self-test":
        return self_test(list(map(Path, sources)), breaches)
    for breach in breaches:
        print(f"BREACH {breach}")
    print(f"{len(seen)} kernels and architectures, {len(breaches)} breaches")
    return 1 if breaches else 0


def self_test(sources, breaches):
    """Every `// breaks: REGEX` line above a kernel must be reported for that kernel on each arch, and every
    `// breaks the file: REGEX` line for its file."""
    expected, names = [], set()
    for source in sources:
        text, archs = source.read_text(), ARCHS[-1:] if source.parent.name == "hopper" else ARCHS
        found = re.findall(r"^// breaks: (.+)\n(?:.*\n)*?GLMAE_KERNEL\((\w+),", text, re.M)
        found += [(what, str(source)) for what in re.findall(r"^// breaks the file: (.+)$", text, re.M)]
        expected += [f"{name} {arch}: {what}" for what, name in found for arch in archs]
        names |= {name for _, name in found}
    missed = [e for e in expected if not any(re.fullmatch(e, b) for b in breaches)]
    wrong = [b for b in breaches if b.split()[0] not in names]
    for b in breaches:
        print(f"reported {b}")
    for m in missed:
        print(f"NOT REPORTED {m}")
    for w in wrong:
        print(f"REPORTED WITHOUT CAUSE {w}")
    print(f"{len(expected)} breaches expected, {len(missed)} missed, {len(wrong)} wrong")
    return 1 if missed or wrong or not expected else 0


if __name__ == "__main__":
    sys.exit(main())
