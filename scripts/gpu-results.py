#!/usr/bin/env python3
"""Files away what a day on a GPU has brought back, and writes the section "On a GPU" of docs/results.md from all
that is filed (benches/results/README.md).

    gpu-results.py               writes the section
    gpu-results.py --add DIR     files DIR away first
    gpu-results.py --check       fails when the section is not current
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts/gpu-day"))
sys.dont_write_bytecode = True
import report  # noqa: E402

FILES = ("summary.md", "results.json", "failures.txt", "logs.tar.gz")
LARGEST = 2 << 20
BEGIN, END = "<!-- gpu:begin -->\n", "<!-- gpu:end -->\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="DIR", help="results of a day, to be filed away")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the section is not current")
    parser.add_argument("--results", type=Path, default=ROOT / "benches/results", help="where results are filed")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/results.md", help="that has the section")
    args = parser.parse_args()
    if args.add:
        print(f"filed as {add(args.add, args.results)}")
    text = args.document.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    new = before + BEGIN + section(args.results) + END + after
    if args.check:
        return 0 if new == text else f"{args.document} is not current: run scripts/gpu-results.py"
    args.document.write_text(new)
    return 0


def load(folder):
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text())
        if results["scale"] != "day":
            sys.exit(f"{path}: a rehearsal measures nothing")
        if not results["device"]:
            sys.exit(f"{path}: no device was there")
        return results
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path}: no results of a day on a GPU ({error!r})")


def name(results):
    """Of the card; the program calls it `cuda (NVIDIA H200)`."""
    return re.sub(r"^cuda \((.*)\)$", r"\1", results["device"])


def card(results):
    return re.sub(r"[^a-z0-9]+", "-", name(results).lower()).strip("-")


def add(folder, root):
    results = load(folder)
    date, n = results["began"][:10], 1
    place = root / card(results) / date
    while place.exists():
        n += 1
        place = root / card(results) / f"{date}-{n}"
    place.mkdir(parents=True)
    for file in FILES:
        if (folder / file).exists() and (folder / file).stat().st_size <= LARGEST:
            shutil.copyfile(folder / file, place / file)
    return place


def section(root):
    """The newest day of each card, and where all the others are."""
    cards = sorted(path for path in root.iterdir() if path.is_dir())
    if not cards:
        return "Not measured yet: no kernel has run on a GPU.\n"
    lines = []
    for folder in cards:
        days = sorted((day for day in folder.iterdir() if day.is_dir()), key=began, reverse=True)
        lines += one(days[0], root) + [""]
        if days[1:]:
            earlier = ", ".join(f"[{day.name}]({link(day, root)})" for day in days[1:])
            lines += [f"Earlier: {earlier}.", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def began(day):
    return load(day)["began"]


def link(day, root):
    return f"../benches/results/{day.relative_to(root)}/summary.md"


def one(day, root):
    results = load(day)
    steps = report.by_name(results)
    build = results["build"]
    commit = build.get("commit", "unknown") + (", with changes" if build.get("changed") else "")
    lines = [f"### {name(results)}, {results['began'][:10]}", "",
             f"Commit {commit}; {results['machine']}; [all of it]({link(day, root)}).", "", *report.correctness(steps)]
    rows = report.headline(steps)
    if rows:
        lines += ["", *report.HEADLINE, *rows]
    return lines


if __name__ == "__main__":
    sys.exit(main())
