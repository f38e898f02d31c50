"""Markdown tables of result files: ``python benchmarks/table.py benchmarks/results/*.json``."""

import json
import sys
from pathlib import Path
from typing import Any


def main(paths: list[str]) -> None:
    for path in paths:
        content = json.loads(Path(path).read_text())
        for result in content.get("benchmarks", [content]):
            print(f"\n`bench_{result['benchmark']}.py`\n")
            print("| work | ours | against | its | ratio | answers |\n| --- | --- | --- | --- | --- | --- |")
            for row in result["rows"]:
                print(_line(row))


def _line(row: dict[str, Any]) -> str:
    unit = row.get("unit", "s")
    ours, peer = (f"{value:.3g} {unit}" for value in (row["ours_seconds"], row["peer_seconds"]))
    return f"| {row['name']} | {ours} | {row['peer']} | {peer} | **{row['ratio']:.3g}** | {row['answer']} |"


if __name__ == "__main__":
    main(sys.argv[1:])
