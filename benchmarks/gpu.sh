#!/usr/bin/env bash
# Everything that needs a GPU, in this order: the tests that compare each CUDA path with the CPU; every benchmark at its
# smallest size, whose answers are checked too; every benchmark at full size. What fails ends the run before anything
# that would take a time. Without a GPU it says what it skipped and ends well.
# usage: benchmarks/gpu.sh [tiny|full] [RESULTS.json]
set -uo pipefail
cd "$(dirname "$0")/.."
size=${1:-full}
out=${2:-benchmarks/results/gpu.json}
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
export HF_HUB_OFFLINE=1

if "$python" -c 'import sys, torch; from grobust.arrays import cuda_available; sys.exit(not (cuda_available() and torch.cuda.is_available()))'; then
  "$python" -m pytest -m gpu --require-gpu -q -rs || { echo "GPU tests failed: no timing is worth taking"; exit 1; }
  if [ "$size" != tiny ]; then
    "$python" benchmarks/run.py --device cuda --size tiny --json "${out%.json}.tiny.json" ||
      { echo "a benchmark's answers are wrong at its smallest size: no timing is worth taking"; exit 1; }
  fi
  "$python" benchmarks/run.py --device cuda --size "$size" --json "$out"
  status=$?
  echo "written: $out"
  exit $status
fi
echo "No GPU is visible to both CuPy and torch. Skipped:"
"$python" -m pytest -m gpu -q -rs 2>&1 | tail -n 3
for name in bench_extract_gpu bench_probe_gpu bench_spectrum_gpu; do echo "  benchmarks/$name.py --device cuda: skipped, no GPU"; done
mkdir -p "$(dirname "$out")"
printf '{"skipped": "no GPU visible to both CuPy and torch", "benchmarks": []}\n' >"${out%.json}.skipped.json"
echo "written: ${out%.json}.skipped.json"
exit 0
