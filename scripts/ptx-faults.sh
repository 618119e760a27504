#!/usr/bin/env bash
# Writes docs/results-ptx-faults.md: the faults that were put into PTX, one at a time, and what the executor said of
# each. Needs the compiler of scripts/cuda-toolchain.sh for those in the real kernels; no GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The rows of the tables; behind the dots of the tests that have ended stands one, too.
rows() { sed -n 's/^[.]*| /| /p'; }

pipelines=$(cargo test --quiet --package glmae-simt --test hopper -- --nocapture --test-threads 1 | rows)
kernels=$(cargo test --quiet --features cuda --test main compiled_faults -- --nocapture | rows)
hopper=$(cargo test --quiet --features cuda --lib faults_in_ -- --nocapture --test-threads 1 | rows)
{
  echo "# Faults put into PTX"
  echo
  echo "Written by \`scripts/ptx-faults.sh\`. Each row is one change that a test makes; the run must fail, with the right"
  echo "message at the right line, under every schedule of threads (of the kernels on Hopper: under one of three)."
  echo
  echo "## In the compiled kernels: $(wc -l <<<"$kernels")"
  echo
  echo "The PTX that nvcc made of the real kernels, changed in all places that it applies to (\`tests/compiled_faults.rs\`)."
  echo
  echo "| fault | noticed as |"
  echo "| --- | --- |"
  echo "$kernels"
  echo
  echo "## In the kernels on Hopper: $(wc -l <<<"$hopper")"
  echo
  echo "The same with what orders copy engine, tensor cores and warps in the kernels of \`kernels/hopper/\`"
  echo "(\`src/ops/*/hopper_fault_tests.rs\`, \`src/ops/patch_embed/hopper_tests.rs\`)."
  echo
  echo "| fault | noticed as |"
  echo "| --- | --- |"
  echo "$hopper"
  echo
  echo "## In Hopper's instructions: $(wc -l <<<"$pipelines")"
  echo
  echo "Pipelines of bulk and tensor copies, barriers in shared memory and \`wgmma\`, written by hand (\`simt/tests/hopper\`)."
  echo
  echo "| instruction | becomes | noticed as |"
  echo "| --- | --- | --- |"
  echo "$pipelines"
} >docs/results-ptx-faults.md
