#!/usr/bin/env bash
# Everything that needs a GPU: first the tests that compare each CUDA path with the CPU, then every benchmark on the
# device. Without a GPU it says what it skipped and ends well.
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
  "$python" benchmarks/run.py --device cuda --size "$size" --json "$out"
  status=$?
  echo "written: $out"
  exit $status
fi
echo "No GPU is visible to both CuPy and torch. Skipped:"
"$python" -m pytest -m gpu -q -rs 2>&1 | tail -n 3
for name in bench_extract bench_probe_gpu bench_spectrum; do echo "  benchmarks/$name.py --device cuda: skipped, no GPU"; done
mkdir -p "$(dirname "$out")"
printf '{"skipped": "no GPU visible to both CuPy and torch", "benchmarks": []}\n' >"${out%.json}.skipped.json"
echo "written: ${out%.json}.skipped.json"
exit 0
