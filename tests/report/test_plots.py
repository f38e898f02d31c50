"""`grobust plot`: every kind from real records, the numbers behind it, colours that stay apart, clear refusals."""

import copy
import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_world import World, make_world
from typer.testing import CliRunner

from grobust.errors import ConfigError, DataError
from grobust.experiments.plot import run_plot
from grobust.experiments.records import read_records
from grobust.experiments.report_config import PlotConfig
from grobust.report._canvas import METHOD_COLORS, METHOD_DASHES, METHOD_MARKERS, methods_in_order, series_style
from grobust.report.choices import PlotKind
from grobust.report.comparisons import NumberPoint, interpolation_threshold
from grobust.report.figures import mean_spectra
from grobust.report.labels import panel_names, run_names, short_backbones, spectrum_label
from grobust.report.views import curve_points, group_spectra, rho_points, score_points
from grobust_cli.main import app

RUNNER = CliRunner()
# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, white point D65."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_methods_stay_apart_for_colour_blind_readers(kind: str) -> None:
    seen = {m: lab(np.array(BLINDNESS[kind]) @ linear(c)) for m, c in METHOD_COLORS.items()}
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 20, (a, b)


def test_the_distance_test_can_fail() -> None:
    """The colours of matplotlib's own cycle, which the paper's figures have, do not pass it: green and red."""
    green, red = (lab(np.array(BLINDNESS["deuteranopia"]) @ linear(c)) for c in ("#2ca02c", "#d62728"))
    assert np.linalg.norm(green - red) < 10


def test_methods_stay_apart_in_grey() -> None:
    lightness = sorted(float(lab(linear(c))[0]) for c in METHOD_COLORS.values())
    assert min(np.diff(lightness)) > 9
    assert len({(METHOD_MARKERS[m], METHOD_DASHES[m]) for m in METHOD_COLORS}) == 5
    assert len({tuple(series_style(i).values()) for i in range(35)}) == 35


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def records(world: World) -> list[dict[str, Any]]:
    return read_records(world.records)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def drawn(kind: PlotKind, records: Path, out: Path, **options: Any) -> list[dict[str, str]]:
    image, table = (Path(f) for f in run_plot(PlotConfig(kind=kind, records=(records,), out=out, **options)).files)
    assert image == out
    assert image.stat().st_size > 5000
    assert table == out.with_suffix(".csv")
    return rows_of(table)


FROM_WORLD = [kind for kind in PlotKind if kind is not PlotKind.RHO_OVER_TRAINING]


@pytest.mark.parametrize("kind", FROM_WORLD)
def test_every_kind_draws(kind: PlotKind, world: World, tmp_path: Path) -> None:
    options = {"x": "balance.rows_per_epoch"} if kind is PlotKind.SCALING else {}
    out = tmp_path / "figure.png"
    assert drawn(kind, world.records, out, **options)
    with Image.open(out) as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.csv", "figure.png"]


def test_numbers_behind_figures_are_those_of_the_records(
    world: World, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    runs = [r for r in records if r["command"] == "probe"]
    wga = drawn(PlotKind.WGA, world.records, tmp_path / "w.svg", where=("command=probe",))
    assert [float(r["wga"]) for r in wga] == [r["results"]["test"]["wga"]["value"] for r in runs]
    groups = drawn(PlotKind.GROUPS, world.records, tmp_path / "g.svg", where=("command=probe",))
    assert [float(r["accuracy"]) for r in groups] == [
        g["value"] for r in runs for g in r["results"]["test"]["groups"] if g["value"] is not None
    ]
    curves = drawn(PlotKind.MIXTURE, world.records, tmp_path / "c.svg")
    trained = [r for r in records if r["command"] == "trajectory"]
    assert [float(r["wga"]) for r in curves] == [w for r in trained for w in r["results"]["epochs"]["test"]["wga"]]
    (spectrum,) = (r for r in records if r["command"] == "spectrum")
    rho = drawn(PlotKind.RHO, world.records, tmp_path / "r.svg")
    ratios = [x for x in spectrum["results"]["norm_ratios"] if x["against"] == "majority"]
    assert [float(r["rho"]) for r in rho] == [x["rho"] for x in ratios]
    assert [float(r["null_high"]) for r in rho] == [x["inference"]["null_high"] for x in ratios]
    gaps = drawn(PlotKind.RHO_GAP, world.records, tmp_path / "q.svg")
    assert [float(r["gap"]) for r in gaps] == [g["gap"] for g in spectrum["results"]["gaps"]]
    label = spectrum_label(spectrum)
    assert {r["run"] for r in gaps} == {label.method + (f", seed {label.seed}" if label.seed is not None else "")}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_records_give_the_same_bytes(suffix: str, world: World, tmp_path: Path) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for out in (first, second):
        drawn(PlotKind.RHO_NULL, world.records, out)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


def test_collapse_leaves_the_mixture_out_and_mixture_keeps_it(world: World, tmp_path: Path) -> None:
    records = read_records(world.records, command="trajectory")
    for record in records:
        if record["results"]["method"] == "subsetting":
            record["results"]["method"] = "mixture"
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    methods = [{r["method"] for r in drawn(kind, path, tmp_path / f"{kind}.svg")}
               for kind in (PlotKind.COLLAPSE, PlotKind.MIXTURE)]  # fmt: skip
    assert methods == [{"none", "upsampling"}, {"none", "upsampling", "mixture"}]


def test_curves_of_finetuned_runs_say_their_epochs() -> None:
    split = {"wga": [0.1, 0.4], "average": [0.5, 0.6]}
    curve = {
        "epochs": [2, 4],
        "steps": [20, 40],
        "rows": [640, 1280],
        "loss": [0.5, None],
        "test": split,
        "train": split,
    }
    record = {"command": "finetune", "seed": 3, "config": {}, "provenance": {"dataset": "d", "backbone": "b"},
              "results": {"method": "none", "epochs": curve}}  # fmt: skip
    points = curve_points([record, {**record, "results": {"method": "none", "epochs": {**curve, "test": split}}}])[:2]
    assert [(p.epoch, p.steps, p.wga, p.loss, p.train_average) for p in points] == [
        (2, 20, 0.1, 0.5, 0.5), (4, 40, 0.4, None, 0.6),
    ]  # fmt: skip
    damaged = copy.deepcopy(record)
    del damaged["results"]["epochs"]["steps"]  # type: ignore[index]
    with pytest.raises(DataError, match=r"`grobust finetune`, seed 3, None lacks or damages .*steps"):
        curve_points([damaged])


def test_rho_over_training_draws_epochs_and_rho_the_last(records: list[dict[str, Any]], tmp_path: Path) -> None:
    (spectrum,) = (r for r in records if r["command"] == "spectrum")
    made = []
    for epoch in (1, 10, 2):
        one = copy.deepcopy(spectrum)
        one["results"]["store"] = one["config"]["store"] = f"mixture_seed3/epoch{epoch}.h5"
        one["results"]["norm_ratios"][0]["rho"] = float(epoch)
        made.append(one)
    points = rho_points(made, last=False)
    assert {(p.method, p.seed) for p in points} == {("mixture", 3)}
    assert sorted(p.epoch or 0 for p in points) == [1, 1, 2, 2, 10, 10]
    assert {p.epoch for p in rho_points(made, last=True)} == {10}
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in made), encoding="utf-8")
    assert len(drawn(PlotKind.RHO_OVER_TRAINING, path, tmp_path / "x.svg")) == 6


def test_networks_on_one_data_set_stay_apart(records: list[dict[str, Any]]) -> None:
    """The last epoch of a trained network hides nothing of a frozen one, and no mean is taken over both."""
    (spectrum,) = (r for r in records if r["command"] == "spectrum")
    made = []
    for seed, backbone, rho in ((1, "timm:a", 1.0), (1, "run:runs/d-b-mixture-seed1@4", 2.0),
                                (2, "run:runs/d-b-mixture-seed2@4", 4.0)):  # fmt: skip
        one = copy.deepcopy(spectrum)
        one["results"] |= {"backbone": backbone, "store": f"mixture_seed{seed}.h5", "norm_ratios": [
            one["results"]["norm_ratios"][0] | {"rho": rho}]}  # fmt: skip
        one["provenance"] |= {"backbone": backbone, "options": {"run": f"digest {seed}"} if rho > 1 else {}}
        made.append(one)
    name = made[0]["results"]["dataset"]
    found = {(p.dataset, p.seed): p.rho for p in rho_points(made, last=True)}
    assert found == {(f"{name}, timm:a", 1): 1.0, (f"{name}, d-b", 1): 2.0, (f"{name}, d-b", 2): 4.0}
    # With the record of the run the network has its own name.
    trained = [{"command": "finetune", "results": {"run": f"digest {s}"}, "provenance": {"backbone": "timm:b"}}
               for s in (1, 2)]  # fmt: skip
    named = {p.dataset for p in rho_points([*trained, *made], last=True)}
    assert named == {f"{name}, timm:a", f"{name}, timm:b, finetuned"}
    assert {p.dataset for p in rho_points(made[1:], last=True)} == {name}


def test_spectra_of_two_splits_or_poolings_are_not_averaged_and_repeated_ones_count_once(
    records: list[dict[str, Any]],
) -> None:
    (spectrum,) = (r for r in records if r["command"] == "spectrum")
    first = spectrum["results"]["groups"][0]["name"]

    def means(*changes: tuple[str, str]) -> dict[str, int]:
        made = []
        for split, pooling in changes:
            one = copy.deepcopy(spectrum)
            one["results"]["split"] = split
            one["provenance"]["pooling"] = pooling
            made.append(one)
        return {m.dataset: m.runs for m in mean_spectra(group_spectra(made)) if m.group == first}

    name = spectrum["results"]["dataset"]
    assert means(("train", "gap"), ("train", "gap")) == {name: 1}
    assert means(("train", "gap"), ("test", "gap")) == {f"{name}, train": 1, f"{name}, test": 1}
    assert means(("train", "gap"), ("train", "cls")) == {f"{name}, gap": 1, f"{name}, cls": 1}


def test_a_run_is_shown_without_its_folders_unless_two_would_be_one() -> None:
    a, b, c, plain = "run:/x/y/net@4", "run:/x/z/net@4", "run:/x/y/other@4", "timm:net@random"
    assert short_backbones([a, c, plain]) == {a: "run:net@4", c: "run:other@4", plain: plain}
    assert short_backbones([a, b, c]) == {a: a, b: b, c: "run:other@4"}


def test_eigenvalues_are_means_over_runs(records: list[dict[str, Any]], tmp_path: Path) -> None:
    (spectrum,) = (r for r in records if r["command"] == "spectrum")
    made = []
    for seed, factor in ((1, 1.0), (2, 3.0)):
        one = copy.deepcopy(spectrum)
        one["results"]["store"] = one["config"]["store"] = f"none_seed{seed}.h5"
        for group in one["results"]["groups"]:
            group["eigenvalues"] = [factor * v for v in group["eigenvalues"] if v is not None]
        made.append(one)
    first = made[0]["results"]["groups"][0]
    (mean,) = (m for m in mean_spectra(group_spectra(made)) if m.group == first["name"])
    assert mean.runs == 2
    np.testing.assert_allclose(mean.mean, 2 * np.array(first["eigenvalues"]))
    np.testing.assert_allclose(mean.sd, np.array(first["eigenvalues"]))
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in made), encoding="utf-8")
    rows = drawn(PlotKind.EIGENVALUES, path, tmp_path / "e.svg")
    assert {r["seed"] for r in rows} == {"1", "2"}
    assert len({r["dataset"] for r in rows}) == 1


def test_curves_of_average_accuracy(world: World, records: list[dict[str, Any]], tmp_path: Path) -> None:
    worst, average = tmp_path / "w.svg", tmp_path / "a.svg"
    rows = [drawn(PlotKind.COLLAPSE, world.records, out, value=value)
            for out, value in ((worst, "test.wga"), (average, "test.average"))]  # fmt: skip
    # The same numbers beside both figures; what differs is which are drawn.
    assert rows[0] == rows[1]
    assert worst.read_bytes() != average.read_bytes()
    trained = [r for r in records if r["command"] == "trajectory"]
    assert [float(r["average"]) for r in rows[0]] == [
        a for r in trained for a in r["results"]["epochs"]["test"]["average"]
    ]


def test_scores_of_a_solved_head_and_of_a_last_epoch(records: list[dict[str, Any]]) -> None:
    solved = next(r for r in records if r["command"] == "probe")
    curve = next(r for r in records if r["command"] == "trajectory")
    found = {(p.dataset.split(", ")[-1], p.score): p for p in score_points([solved, curve], "test.wga")}
    assert found["probe", "wga"].val == solved["results"]["val"]["wga"]["value"]
    assert found["probe", "wga"].test == solved["results"]["test"]["wga"]["value"]
    assert found["trajectory", "wga"].val == curve["results"]["epochs"]["val"]["wga"][-1]
    given = copy.deepcopy(solved)
    given["results"]["val_scores"] = {"bias_unsupervised": 0.25, "wga": None}
    assert [(p.score, p.val) for p in score_points([given], "test.wga")] == [("bias_unsupervised", 0.25)]


def test_the_interpolation_threshold_is_where_all_runs_do() -> None:
    def points(*does: bool | None) -> list[NumberPoint]:
        return [NumberPoint("d", "none", 0, float(x), 0.5, None, None, d) for x, d in enumerate(does)]

    assert interpolation_threshold(points(False, True, True)) == 1.0
    assert interpolation_threshold(points(True, False, True)) == 2.0
    assert interpolation_threshold(points(True, True, False)) is None
    assert interpolation_threshold(points(None, None)) is None


def test_names_tell_runs_apart() -> None:
    def run(method: str, seed: int, command: str = "probe", backbone: str = "b", **config: Any) -> dict[str, Any]:
        return {"command": command, "seed": seed, "results": {"method": method}, "config": {"by": "class", **config},
                "provenance": {"dataset": "d", "backbone": backbone}}  # fmt: skip

    seeds = [run("none", 0), run("none", 1), run("mixture", 0, ratio=2.0), run("mixture", 1, ratio=2.0)]
    assert run_names(seeds) == ["none", "none", "mixture", "mixture"]
    ratios = [run("mixture", 0, ratio=2.0), run("mixture", 0, ratio=1.5, by="group")]
    assert run_names(ratios) == ["mixture 2:1", "mixture 1.5:1 by group"]
    assert run_names([run("none", 0, penalty="l1"), run("none", 0, penalty="l2")]) == [
        "none, penalty l1", "none, penalty l2",
    ]  # fmt: skip
    several = [run("none", 0), run("none", 0, "trajectory"), run("none", 0, backbone="c")]
    assert panel_names(several) == ["d, probe, b", "d, trajectory, b", "d, probe, c"]
    assert panel_names(several, across_backbones=True) == ["d, probe", "d, trajectory", "d, probe"]
    assert methods_in_order(["x", "mixture 3:1", "mixture 1.5:1", "none"]) == [
        "none", "mixture 1.5:1", "mixture 3:1", "x",
    ]  # fmt: skip


def test_what_records_cannot_give_is_said(world: World, tmp_path: Path) -> None:
    cases = [
        (["rho-over-training"], "No record has ρ(y) of an epoch"),
        (["scaling"], "no record has a field 'parameters'"),
        (["scaling", "--x", "backbone"], "backbone must be a number, got"),
        (["collapse", "--value", "test.worst_class"], "value of collapse must be test.wga or test.average"),
        (["wga", "--x", "l2"], "x is for scaling"),
        (["rho", "--where", "command=probe"], "No record has spectra"),
        (["eigenvalues", "--out", str(tmp_path / "x.gif")], "out must end in .png, .svg or .pdf"),
    ]
    for arguments, expected in cases:
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "x.png")]
        result = RUNNER.invoke(app, ["plot", arguments[0], str(world.records), *arguments[1:], *out])
        assert result.exit_code == 2, result.output
        assert expected in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError):
        PlotConfig(kind=PlotKind.WGA, records=(), out=Path("x.txt"))
