"""The README's Python example runs as it stands, and its commands exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from grobust_cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    found = re.fullmatch(r"average (0\.\d+), worst group (.+): (0\.\d+)\n", printed)
    assert found
    assert float(found[3]) < float(found[1])


def test_commands_exist() -> None:
    commands = set(re.findall(r"^grobust (\w+)", README, re.MULTILINE))
    assert commands == {
        "cache", "compare", "data", "diagnose", "extract", "finetune", "import", "info", "methods", "plot", "predict",
        "probe", "report", "reproduce", "select", "spectrum", "sweep", "table", "verify",
    }  # fmt: skip
    assert commands <= set(get_command(app).commands)  # type: ignore[attr-defined]
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
