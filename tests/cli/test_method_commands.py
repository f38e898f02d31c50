"""`grobust methods` and `grobust probe --method`: what they print, write and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store, write_store_of
from typer.testing import CliRunner

from grobust.errors import ConfigError
from grobust.experiments.records import read_records
from grobust.features.parts import StorePlan
from grobust.features.store import FeatureStore
from grobust.groups import Groups
from grobust.methods import METHODS
from grobust_cli.main import app
from grobust_cli.methods import method_names, settings_of

RUNNER = CliRunner()


def run(*arguments: str | Path, code: int = 0) -> str:
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gaussian_store(tmp_path_factory.mktemp("store") / "f.h5")


def test_every_method_is_listed() -> None:
    text = run("methods")
    for name, method in METHODS.items():
        assert name in text
        assert method.about.source in " ".join(text.split())
    listed = json.loads(run("methods", "--json"))["methods"]
    assert [row["name"] for row in listed] == list(METHODS)
    dfr = next(row for row in listed if row["name"] == "dfr")
    assert dfr["labels"] == {"train": [], "reweighting": ["class", "attribute"], "selection": ["class", "attribute"]}
    assert dfr["settings"]["inverse_strengths"] == [1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01]


def test_methods_run_from_the_command_line(store: Path, tmp_path: Path) -> None:
    saved, records = tmp_path / "h.safetensors", tmp_path / "r.jsonl"
    arguments = ("probe", store, "--method", "erm,dfr,self", "--seeds", "1,2", "--set", "dfr.retrains=3",
                 "--set", "steps=20", "--set", "rows=5,10", "--records", records)  # fmt: skip
    report = json.loads(run(*arguments, "--save", saved, "--json"))
    assert [(r["method"], r["seed"]) for r in report["runs"]] == [
        (m, s) for m in ("erm", "dfr", "self") for s in (1, 2)
    ]
    assert report["runs"][2]["members"] == 3
    assert report["runs"][4]["settings"]["rows"] == [5, 10]
    assert report["runs"][0]["label_ledger"]["selection"] == ["class", "attribute"]
    assert len(read_records(records, command="methods")) == 6
    predicted = json.loads(run("predict", store, saved, "--json"))
    assert [h["metrics"]["wga"] for h in predicted["heads"]] == [r["test"]["wga"] for r in report["runs"]]
    text = run(*arguments)
    for word in ("WGA", "95% interval", "inverse_strength", "y1 / a1", "–/group/group", "class/–/group"):
        assert word in text
    chosen = json.loads(run(*arguments, "--select", "worst_class", "--json"))
    assert chosen["runs"][0]["label_ledger"]["selection"] == ["class"]


def test_data_without_attributes(store: Path, tmp_path: Path) -> None:
    with FeatureStore(store) as opened:
        groups = Groups.from_arrays(opened.groups.labels, class_names=opened.groups.class_names)
        plan = StorePlan(opened.provenance, groups, opened.split, opened.sample_ids, opened.dim)
        other = write_store_of(tmp_path / "p.h5", plan, np.array(opened.read()))
    message = " ".join(run("probe", other, "--method", "dfr,erm", code=2).split())
    assert "Group labels are needed by dfr" in message
    assert "do without: erm, suby, rwy, llr" in message
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--method", "drf"], "Did you mean 'dfr'?"),
        (["--method", "dfr,,erm"], "empty name"),
        (["--method", "dfr", "--balance", "all"], "--balance has no meaning with --method"),
        (["--method", "dfr", "--trajectory"], "--trajectory has no meaning with --method"),
        (["--method", "dfr", "--l2", "path"], "--l2 has no meaning with --method"),
        (["--method", "dfr", "--device", "cpu"], "on the CPU"),
        (["--method", "dfr", "--set", "retrains"], "expected NAME=VALUE"),
        (["--method", "dfr", "--set", "gamma=1"], "none of dfr has a setting 'gamma'"),
        (["--method", "dfr", "--set", "afr.gamma=1"], "which is not run"),
        (["--method", "dfr", "--set", "dfr.retrain=1"], "Did you mean 'retrains'?"),
        (["--method", "dfr", "--set", "retrains=x"], "an integer"),
        (["--method", "llr,ula", "--select", "wga"], "no meaning for llr, ula"),
        (["--method", "dfr", "--early", "no.h5"], "no.h5 does not exist"),
        (["--set", "retrains=1"], "--set needs --method"),
        (["--early", "x.h5"], "--early needs --method"),
    ],
)
def test_what_is_mistyped_gets_a_message(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = " ".join(run("probe", store, *arguments, "--records", "r.jsonl", code=2).split())
    assert text in message
    assert list(tmp_path.iterdir()) == []


def test_values_are_parsed() -> None:
    assert method_names(" dfr, afr ") == ("dfr", "afr")
    assert settings_of(["l2=1", "jtt.epochs = 2"], ("erm", "jtt", "dfr")) == {
        "erm": {"l2": "1"}, "jtt": {"l2": "1", "epochs": "2"},
    }  # fmt: skip
    assert set(settings_of(["retrains=1"], ("all",))) == {"dfr", "dfr-train"}
    with pytest.raises(ConfigError, match="Unknown method"):
        settings_of(["x.l2=1"], ("erm",))
