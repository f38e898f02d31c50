"""The page's content: what it recommends and why, what it embeds, projections, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_plan, write_store_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_world import CLASSES, HOSTILE, World, make_world
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from grobust.errors import ConfigError, DataError, StoreMismatchError
from grobust.experiments.records import read_records
from grobust.experiments.report import run_report
from grobust.experiments.report_config import ReportConfig
from grobust.experiments.report_features import THUMBNAIL_PIXELS, HeadOnStore, _thumbnail, examples_of
from grobust.experiments.sweep.folder import SweepFolder
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.heads import load_heads, save_heads
from grobust.metrics import wilson_interval
from grobust.report.comparisons import ScorePoint
from grobust.report.figures import MethodResult
from grobust.report.page.render import data_json
from grobust.report.page.summary import newcombe, summary_card
from grobust.report.projection import principal_plane, umap_plane
from grobust.report.tables import Cell
from grobust_cli.main import app

RUNNER = CliRunner()


def cell(correct: int, n: int) -> Cell:
    low, high = wilson_interval(correct, n)
    return Cell(correct / n, 0.0, 1, float(low), float(high))


def test_newcombe_against_its_paper() -> None:
    """Newcombe (1998), table II, examples (a) 56/70 against 48/80 and (c) 5/56 against 0/29, method 10."""
    np.testing.assert_allclose(newcombe(cell(56, 70), cell(48, 80)), (0.0524, 0.3339), atol=5e-5)
    np.testing.assert_allclose(newcombe(cell(5, 56), cell(0, 29)), (-0.0381, 0.1926), atol=5e-5)


def results(**values: tuple[float, ...]) -> list[MethodResult]:
    return [MethodResult("d", m, s, v, v - 0.05, v + 0.05, "a / b", 400, 0.9)
            for m, own in values.items() for s, v in enumerate(own)]  # fmt: skip


def scores(score: str = "wga", **values: float) -> list[ScorePoint]:
    return [ScorePoint("d", m, 0, score, v, 0.0) for m, v in values.items()]


def test_validation_chooses_and_test_rows_report() -> None:
    """The method that validation prefers is shown although another has the larger test mean."""
    found = results(none=(0.3, 0.3), mixture=(0.6, 0.6), subsetting=(0.7, 0.7))
    card = summary_card("d", found, scores(none=0.3, mixture=0.65, subsetting=0.6))
    text = " ".join(card.sentences)
    assert card.method == "mixture"
    assert card.figure == "60.0% [55.0, 65.0]"
    assert "chooses mixture among 3 methods" in text
    assert "+30.0 points [+22.9, +37.1]: better beyond" in text
    assert any("used the attributes of validation rows" in c for c in card.cautions)


def test_what_cannot_be_told_apart_is_said_so() -> None:
    found = results(none=(0.50, 0.50), mixture=(0.52, 0.54))
    text = " ".join(summary_card("d", found, scores(none=0.1, mixture=0.2)).sentences)
    assert "these runs cannot tell the two apart" in text
    worse = results(none=(0.8, 0.8), mixture=(0.3, 0.3))
    assert "another seed may differ" not in text
    one = " ".join(summary_card("d", results(none=(0.1,), mixture=(0.6,)), scores(none=0.1, mixture=0.2)).sentences)
    assert "better beyond what test rows leave open; another seed may differ" in one
    assert "worse, beyond" in " ".join(summary_card("d", worse, scores(none=0.1, mixture=0.2)).sentences)


def test_without_validation_nothing_is_chosen() -> None:
    card = summary_card("d", results(none=(0.5,), mixture=(0.6,)), [])
    assert "nothing can be chosen without looking at test rows" in card.sentences[0]
    assert "optimistic" in card.sentences[1]
    by_class = summary_card("d", results(none=(0.5,), mixture=(0.6,)), scores("worst_class", none=0.9, mixture=0.1))
    assert by_class.method == "none"
    assert "worst-class accuracy chooses none" in by_class.sentences[0]
    assert not any("attributes" in c for c in by_class.cautions)


@given(st.recursive(st.text() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_embedded_json_reads_back_and_holds_no_markup(value: object) -> None:
    text = data_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


@pytest.mark.parametrize(("m", "d"), [(200, 7), (12, 40)])
def test_principal_components_against_scikit_learn(m: int, d: int) -> None:
    rng = np.random.default_rng(m)
    x = (rng.standard_normal((m, d)) * np.linspace(3, 0.5, d) + 100).astype(np.float32)
    plane = principal_plane(x)
    pca = PCA(2, svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(np.abs(plane.directions), np.abs(pca.components_), atol=1e-6)
    np.testing.assert_allclose(plane.shares, pca.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(np.abs(plane.place(x)), np.abs(pca.transform(x)), atol=1e-4)
    np.testing.assert_allclose(plane.directions @ plane.directions.T, np.eye(2), atol=1e-12)


def test_features_without_variance_have_a_plane_all_the_same() -> None:
    constant = principal_plane(np.full((5, 4), 2.0, dtype=np.float32))
    np.testing.assert_allclose(constant.directions @ constant.directions.T, np.eye(2), atol=1e-12)
    assert constant.shares == (0.0, 0.0)
    line = np.outer(np.arange(6.0), [3.0, 4.0, 0.0])
    found = principal_plane(line)
    np.testing.assert_allclose(found.directions[0], [0.6, 0.8, 0.0], atol=1e-9)
    np.testing.assert_allclose(found.shares, (1.0, 0.0), atol=1e-12)


def test_umap_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(ConfigError, match=r"UMAP is not installed. Use --projection pca, or install it"):
        umap_plane(np.zeros((5, 2)), seed=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_examples_are_the_worst_groups_by_confidence(world: World) -> None:
    """Against a loop: the worst test group, its wrong rows by falling confidence, its right rows likewise."""
    heads = load_heads(world.heads)
    with FeatureStore(world.store) as store:
        x, groups = store.load(Split.TEST)
        rows = store.rows(Split.TEST)
        scores = x.astype(np.float64) @ heads.weight[0].T + heads.bias[0]
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        head = HeadOnStore(heads.infos[0], rows, scores.argmax(axis=1), shares.max(axis=1))
        config = ReportConfig(records=(world.records,), out=Path("x.html"), examples=4)
        found = examples_of(store, config, head, None)
        ids = [store.sample_ids[i] for i in rows]
    assert found is not None
    hits = head.predicted == groups.labels
    accuracy = {g: np.mean([hit for hit, h in zip(hits, groups.ids, strict=True) if h == g]) for g in set(groups.ids)}
    worst = min(accuracy, key=lambda g: accuracy[g])
    assert found.title.endswith(groups.names[worst])
    for shown, is_right in ((found.wrong, False), (found.right, True)):
        own = [i for i in range(len(rows)) if groups.ids[i] == worst and hits[i] == is_right]
        own.sort(key=lambda i: -head.confidence[i])
        assert [e.id for e in shown] == [ids[i] for i in own[:4]]
        assert [e.confidence for e in shown] == pytest.approx([head.confidence[i] for i in own[:4]])


def test_the_command_writes_one_file_that_holds_everything(world: World, tmp_path: Path) -> None:
    diagnosis = tmp_path / "d.json"
    verdict = {"finding": f"leans {HOSTILE}", "recommendation": "balance", "evidence": ["gap 30 points"]}
    diagnosis.write_text(json.dumps({"dataset": "d", "backbone": "b", "verdict": verdict, "notes": ["few rows"]}))
    out = tmp_path / "deep" / "report.html"
    arguments = ["report", str(world.records), "--store", str(world.store), "--heads", str(world.heads), "--dataset",
                 "metadata_csv", "--data-dir", str(world.data_dir), "--points", "50", "--out", str(out)]  # fmt: skip
    result = RUNNER.invoke(app, [*arguments, "--diagnosis", str(diagnosis), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    page = out.read_text(encoding="utf-8")
    assert said["bytes"] == len(page.encode())
    assert said["runs"] == len(read_records(world.records))
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    assert HOSTILE not in page
    assert CLASSES[0] not in page
    assert "gap 30 points" in page
    # Nothing is fetched: no address stands in an attribute or a style.
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page) == []
    assert "mixture" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert data["scatter"][0]["n"] == 50
    assert len(data["runs"]) == said["runs"]
    # Files are named without their folders.
    assert str(world.records.parent) not in page


def test_a_folder_stands_for_its_stores(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    for name in ("b.h5", "a.h5"):
        (folder / name).write_bytes(world.store.read_bytes())
    config = ReportConfig(
        records=(world.records,), out=tmp_path / "r.html", stores=(folder, folder / "a.h5"), points=20
    )
    assert len(run_report(config).content.scatter) == 2


def test_the_folder_of_a_sweep_brings_its_stores_and_heads(world: World, tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path / "sweep")
    for folder, source in ((sweep.stores, world.store), (sweep.heads, world.heads)):
        folder.mkdir(parents=True)
        (folder / source.name).write_bytes(source.read_bytes())
    sweep.records.write_bytes(world.records.read_bytes())
    # Heads of other data that happen to fit are not taken.
    heads = load_heads(world.heads)
    assert heads.provenance is not None
    other = replace(heads, provenance=replace(heads.provenance, dataset="other"))
    save_heads(other, sweep.heads / "a-other.safetensors")
    found = run_report(ReportConfig(records=(sweep.root,), out=tmp_path / "r.html", points=20))
    asked = run_report(
        ReportConfig(
            records=(world.records,), stores=(world.store,), heads=(world.heads,), out=tmp_path / "s.html", points=20
        )
    )
    assert found.content.scatter == asked.content.scatter
    assert found.content.examples == asked.content.examples
    assert len(found.content.examples) == 1
    assert any("--dataset" in note for note in found.notes)
    with pytest.raises(StoreMismatchError, match=world.store.name):
        run_report(ReportConfig(records=(sweep.root,), datasets=("digits",), out=tmp_path / "r.html", points=20))
    (sweep.heads / world.heads.name).unlink()
    assert run_report(ReportConfig(records=(sweep.root,), out=tmp_path / "r.html", points=20)).content.examples == ()


def test_the_head_shown_is_what_probes_of_these_features_recommend(world: World, tmp_path: Path) -> None:
    records = read_records(world.records)
    config = ReportConfig(
        records=(world.records,), stores=(world.store,), heads=(world.heads,), out=tmp_path / "r.html", points=20
    )
    shown = run_report(config).content.examples[0].caption
    assert "Head 'mixture" not in shown
    # Runs of another backbone come first, and would recommend `mixture`, their only method.
    others = [r for r in records if r["command"] == "probe" and r["results"]["method"] == "mixture"]
    for record in others:
        record["provenance"]["backbone"] = "timm:other"
    assert others
    more = tmp_path / "records.jsonl"
    more.write_text("".join(json.dumps(r) + "\n" for r in [*others, *read_records(world.records)]), encoding="utf-8")
    assert run_report(replace(config, records=(more,))).content.examples[0].caption == shown


def test_bad_input_is_said_and_nothing_is_written(world: World, tmp_path: Path) -> None:
    other = write_store_of(tmp_path / "other.h5", make_plan())
    broken = tmp_path / "broken.json"
    broken.write_text('{"verdict": 3}')
    store, heads = ["--store", str(world.store)], ["--heads", str(world.heads)]
    cases = [
        (["--heads", str(world.heads)], "heads needs a feature store"),
        ([*store, "--dataset", "tweets"], "those need heads"),
        ([*store, *heads, "--head", "nonsense"], "There is no head 'nonsense'"),
        (["--store", str(other), *heads], "was trained on features of another kind"),
        ([*store, *heads, "--dataset", "digits"], "are not rows of the data set 'digits'"),
        (["--diagnosis", str(broken)], "is not what `grobust diagnose --json` prints"),
        (["--diagnosis", str(tmp_path / "no.json")], "No diagnosis at"),
        (["--store", str(tmp_path / "no.h5")], "does not exist"),
        (["--store", str(tmp_path)[:-1] + "x"], "does not exist"),
        (["--store", str(world.data_dir)], "has no feature store"),
        (["--points", "1"], "points must be at least 3"),
    ]
    out = tmp_path / "report.html"
    for arguments, expected in cases:
        result = RUNNER.invoke(app, ["report", str(world.records), "--out", str(out), *arguments])
        assert result.exit_code == 2, (arguments, result.output)
        assert expected in " ".join(result.output.split()), result.output
        assert not out.exists()
    with pytest.raises(ConfigError, match=r"out must end in \.html"):
        ReportConfig(records=(), out=Path("report.pdf"))
    with pytest.raises(DataError, match="No records at"):
        run_report(ReportConfig(records=(tmp_path / "no.jsonl",), out=out))
    with pytest.raises(StoreMismatchError, match="another kind"):
        run_report(ReportConfig(records=(world.records,), out=out, stores=(other,), heads=(world.heads,)))


def test_images_become_small_ones(tmp_path: Path) -> None:
    uri, size = _thumbnail(Image.new("RGBA", (400, 100), (255, 0, 0, 128)))
    assert uri.startswith("data:image/jpeg;base64,")
    assert size == (THUMBNAIL_PIXELS, 32)
