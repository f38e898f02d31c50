"""Every benchmark in a process of its own; one JSON file of all results, and a short table last."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import arguments, environment

HERE = Path(__file__).parent
# What has a path on the device; the others would time the host again.
ON_DEVICE = ("bench_extract_gpu", "bench_probe_gpu", "bench_spectrum_gpu")


def main() -> int:
    args = arguments(__doc__ or "")
    results, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for script in sorted(HERE.glob("bench_*.py")):
            if args.device == "cuda" and script.stem not in ON_DEVICE:
                continue
            path = Path(folder) / f"{script.stem}.json"
            command = [sys.executable, str(script), "--size", args.size, "--device", args.device, "--json", str(path)]
            if subprocess.run(command, check=False).returncode == 0:
                results.append(json.loads(path.read_text()))
            else:
                failed.append(script.stem)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"environment": environment(args.device), "benchmarks": results, "failed": failed}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n{'benchmark':10} {'what':48} {'against':36} ratio")
    for result in results:
        for row in result["rows"]:
            print(f"{result['benchmark']:10} {row['name']:48} {row['peer']:36} {row['ratio']:6.2f}")
        for name, reason in result["skipped"].items():
            print(f"{result['benchmark']:10} {name:48} skipped: {reason}")
    for name in failed:
        print(f"{name:10} FAILED: no number")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
