#!/usr/bin/env bash
# A day on a GPU, on a machine with a driver and Python 3 (no Rust, no toolkit, no network):
#
#   ./run.sh SECONDS                            everything that fits, the most important first
#   ./run.sh SECONDS --resume DIR               what is left of the day whose results are there, failures first
#   ./run.sh SECONDS --list                     the plan, with its seconds; runs nothing
#   ./run.sh SECONDS --out DIR --only NAMES     where results go (results), only these steps (with commas)
#   ./run.sh SECONDS --work DIR                 caches and logs there, where a second call finds them again
#
# Where a command may take ten minutes: ./run.sh 540, then ./run.sh 240 --resume results.
#
# Results are written as they come: summary.md (one screen), results.json (all numbers), failures.txt
# (the first fault of each kind), logs.tar.gz. Exit code: 0 when nothing failed, 1 otherwise, 5 without a
# GPU, 2 for a wrong call.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec python3 "$here/day.py" "$@"
