"""The wheel holds the two packages and nothing else; versions agree; constraints cover the dependencies."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import grobust
from grobust.device._interface import KERNELS
from grobust.report.page.render import SCRIPTS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_wheel_content(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {
        "grobust",
        "grobust_cli",
        f"grobust-{grobust.__version__}.dist-info",
    }
    assert "grobust/py.typed" in names
    data_files = {"features/FORMAT.md", "data/published.toml", "data/fetch/mirrors.toml"}
    data_files |= {f"report/page/{name}" for name in ("page.html", "page.css", *SCRIPTS)}
    assert {f"grobust/{name}" for name in data_files} <= set(names)
    assert {"grobust/device/cuda/common.cuh", *(f"grobust/device/cuda/{name}.cu" for name in KERNELS)} <= set(names)


def test_version_is_one() -> None:
    assert PROJECT["version"] == grobust.__version__
    assert f"## {grobust.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["demo"],
        *PROJECT["optional-dependencies"]["report"],
        *PROJECT["optional-dependencies"]["dev"],
    ]
    names = {re.split(r"[<>=]", d)[0].lower().replace("_", "-") for d in wanted}
    assert names <= pinned
