"""`grobust probe` and `grobust predict`: what they print, write and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store, make_plan, write_store_of
from typer.testing import CliRunner

from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError
from grobust.experiments.config import L1_PATH, L2_PATH
from grobust.experiments.records import read_records
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.heads import load_heads
from grobust.probe import largest_l1
from grobust.settings import BalanceMethod
from grobust_cli._options import byte_size, ints, strengths
from grobust_cli.main import app

RUNNER = CliRunner()
METHODS = [str(m) for m in BalanceMethod]


def run(*arguments: str | Path, code: int = 0) -> str:
    """stdout of a command that must end with `code`, without a traceback."""
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gaussian_store(tmp_path_factory.mktemp("store") / "f.h5")


def test_a_whole_path_for_every_method_and_seed(store: Path, tmp_path: Path) -> None:
    saved, records = tmp_path / "h.safetensors", tmp_path / "r.jsonl"
    report = json.loads(
        run("probe", store, "--balance", "all", "--by", "group", "--l2", "path", "--seeds", "0..2", "--select", "wga",
            "--max-bytes", "64MB", "--save", saved, "--records", records, "--figures", tmp_path, "--json")
    )  # fmt: skip
    assert [(r["method"], r["seed"]) for r in report["runs"]] == [(m, s) for m in METHODS for s in range(3)]
    first = report["runs"][0]
    assert [c["l2"] for c in first["candidates"]] == list(L2_PATH)
    assert max(c["score"] for c in first["candidates"]) == first["val"]["wga"]["value"]
    assert report["label_ledger"]["train"] == ["class", "attribute"]
    heads = load_heads(saved)
    assert [(i.method, i.seed, i.l2) for i in heads.infos] == [
        (r["method"], r["seed"], r["l2"]) for r in report["runs"]
    ]
    with FeatureStore(store) as opened:
        x, test = opened.load(Split.TEST)
    predicted = heads.probe(4).predict(x)
    accuracy = [(predicted == test.labels)[test.ids == g].mean() for g in range(4)]
    assert [g["value"] for g in report["runs"][4]["test"]["groups"]] == pytest.approx(accuracy)
    assert len(read_records(records, command="probe")) == 15
    assert [Path(f).name for f in report["figures"]] == [f"wga_by_method.{end}" for end in ("png", "svg", "csv")]


def test_l1_and_elastic_net_choose_from_their_paths(store: Path, tmp_path: Path) -> None:
    arguments = ("probe", store, "--seeds", "1", "--records", tmp_path / "r.jsonl", "--json")
    with FeatureStore(store) as opened:
        x, train = opened.load(Split.TRAIN)
    (top,) = largest_l1(x, train.labels, [None], n_classes=2)
    (lasso,) = json.loads(run(*arguments, "--penalty", "l1"))["runs"]
    assert [c["l1"] for c in lasso["candidates"]] == pytest.approx([share * top for share in L1_PATH])
    assert {c["l2"] for c in lasso["candidates"]} == {0.0}
    assert lasso["fit"]["gap"] <= 1e-6 * lasso["fit"]["objective"]
    (given,) = json.loads(run(*arguments, "--penalty", "l1", "--l1", str(0.9 * top)))["runs"]
    assert 0 < given["fit"]["nonzero_weights"] < 2 * x.shape[1]
    (both,) = json.loads(run(*arguments, "--penalty", "elasticnet", "--l1", "1e-3,1e-2", "--l2", "1e-2"))["runs"]
    assert [(c["l2"], c["l1"]) for c in both["candidates"]] == [(1e-2, 1e-3), (1e-2, 1e-2)]
    assert "weights not 0" in run(*arguments[:-1], "--penalty", "l1")


def test_trajectories_print_record_and_draw(store: Path, tmp_path: Path) -> None:
    arguments = (
        "probe", store, "--trajectory", "--balance", "all", "--seeds", "0..1", "--epochs", "4", "--lr", "0.05",
        "--records", tmp_path / "r.jsonl", "--save", tmp_path / "h.safetensors", "--figures", tmp_path,
    )  # fmt: skip
    text = run(*arguments, "--optimizer", "adamw", "--schedule", "cosine", "--match", "steps", "--batch-size", "16")
    for word in ("WGA best", "WGA last", "drop", "equal steps", *METHODS, "y1 / a1"):
        assert word in text
    report = json.loads(run(*arguments, "--momentum", "0.9", "--weight-decay", "0", "--json"))
    assert [(r["method"], r["seed"]) for r in report["runs"]] == [(m, s) for m in METHODS for s in (0, 1)]
    for each in report["runs"]:
        curve = each["epochs"]
        assert each["last"]["wga"]["value"] == curve["test"]["wga"][-1]
        assert each["best"]["wga"]["value"] == curve["test"]["wga"][each["best_epoch"] - 1]
        assert len(curve["steps"]) == len(curve["train"]["groups"]) == 4
    assert len(read_records(tmp_path / "r.jsonl", command="trajectory")) == 20
    assert (tmp_path / "trajectories.svg").stat().st_size > 1000
    assert load_heads(tmp_path / "h.safetensors").infos[0].status == "epoch 4"


def test_what_did_not_converge_is_shown(store: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(
        app, ["probe", str(store), "--seeds", "1,2", "--max-iter", "1", "--l2", "1e-6,1e-5", "--balance", "subsetting",
              "--records", str(tmp_path / "r.jsonl")]
    )  # fmt: skip
    assert result.exit_code == 0
    assert "2 of 2 max_iter" in result.stdout
    assert "not converged" in result.stderr
    assert "1 of the 2 candidates" in " ".join(result.stderr.split())


def test_predict_repeats_the_run(store: Path, tmp_path: Path) -> None:
    saved = tmp_path / "h.safetensors"
    probe = json.loads(
        run("probe", store, "--balance", "none,mixture", "--seeds", "3", "--save", saved, "--records", tmp_path / "r",
            "--json")
    )  # fmt: skip
    report = json.loads(run("predict", store, saved, "--json", "--out", tmp_path / "p.csv"))
    assert [h["metrics"] for h in report["heads"]] == [r["test"] for r in probe["runs"]]
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").count("\n") == 1 + 2 * report["n"]
    text = run("predict", store, saved, "--head", "mixture/seed3", "--split", "val")
    for word in ("mixture/seed3", "y1 / a0", "val metrics"):
        assert word in text
    with FeatureStore(store) as opened:
        plan = make_plan(opened.n, opened.dim, preprocessing="resize=512")
        content = np.array(opened.read())
    data = gaussian_groups((500, 40, 30, 160), 8, seed=3, core=1.5)
    plan = type(plan)(plan.provenance, data.groups, plan.split, plan.sample_ids, plan.dim)
    other = write_store_of(tmp_path / "o.h5", plan, content)
    message = run("predict", other, saved, code=2)
    assert "preprocessing: heads resize=256 crop=224, store resize=512" in message
    assert "StoreMismatchError" in message
    assert "preprocessing" in RUNNER.invoke(app, ["predict", str(other), str(saved), "--force"]).stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["probe", "{store}", "--trajectory", "--l2", "path"], "--l2 has no meaning with --trajectory"),
        (["probe", "{store}", "--epochs", "3"], "--epochs needs --trajectory"),
        (["probe", "{store}", "--l1", "1e-3"], "--l1 has no meaning with --penalty l2"),
        (["probe", "{store}", "--penalty", "l1", "--l2", "1"], "--l2 has no meaning with --penalty l1"),
        (["probe", "{store}", "--penalty", "l3"], "l3"),
        (["probe", "{store}", "--penalty", "l1", "--l1", "0"], "positive"),
        (["probe", "{store}", "--seeds", "4..0"], "goes down"),
        (["probe", "{store}", "--seeds", "0..99999999999"], "more than"),
        (["probe", "{store}", "--seeds", "0..2,1"], "repeats a value"),
        (["probe", "{store}", "--max-bytes", "many"], "2GiB"),
        (["probe", "{store}", "--max-bytes", "0"], "at least 1"),
        (["probe", "{store}", "--save", "h.pt"], ".safetensors"),
        (["probe", "{store}", "--trajectory", "--epochs", "0"], "at least 1"),
        (["probe", "{store}", "--trajectory", "--lr", "nan"], "learning_rate"),
        (["probe", "{store}", "--trajectory", "--momentum", "1"], "momentum"),
        (["predict", "{store}", "no.safetensors"], "is not a file"),
        (["predict", "{store}", "{store}"], "no safetensors file"),
        (["predict", "no.h5", "no.safetensors"], "is not a file"),
        (["predict", "{store}", "no.safetensors", "--split", "dev"], "train, val or test"),
        (["predict", "{store}", "no.safetensors", "--out", "p.parquet"], ".csv or .npz"),
    ],
)
def test_what_is_mistyped_gets_a_message(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = " ".join(run(*[a.replace("{store}", str(store)) for a in arguments], code=2).split())
    assert text in message
    assert list(tmp_path.iterdir()) == []


def test_values_are_parsed() -> None:
    assert ints("0..4", "--seeds") == (0, 1, 2, 3, 4)
    assert ints("7, 1..2 ,-3", "--seeds") == (7, 1, 2, -3)
    assert strengths("path", "--l2", path=L2_PATH) == L2_PATH
    assert strengths("1e-3,2", "--l2", path=L2_PATH) == (1e-3, 2.0)
    sizes = {"2GiB": 2 << 30, "500MB": 500_000_000, "1.5 kib": 1536, "123": 123, "1B": 1}
    assert {text: byte_size(text, "--max-bytes") for text in sizes} == sizes
    for bad in ("", "GiB", "-1", "1XB", "1e3"):
        with pytest.raises(ConfigError, match="--max-bytes"):
            byte_size(bad, "--max-bytes")
    assert len(L2_PATH) == 13
    assert (L2_PATH[0], L2_PATH[1], L2_PATH[-1]) == (1e-6, 3.162e-6, 1.0)
    assert len(L1_PATH) == 7
