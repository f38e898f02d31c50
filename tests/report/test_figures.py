"""Figures: files that open, numbers behind them that are the input, the same bytes every time."""

import csv
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from grobust.report.curves import TrajectoryPoint, _curve, plot_trajectories
from grobust.report.figures import GroupSpectrum, MethodResult, plot_eigenvalues, plot_wga_by_method

RESULTS = [
    MethodResult(data, method, seed, 0.1 * seed + 0.2, 0.1, 0.9, "b / q", 12, 0.8)
    for data in ("toy", "other")
    for method in ("none", "mixture")
    for seed in (1, 2)
]
SPECTRA = [
    GroupSpectrum("toy", "a / p", 100, False, (3.0, 2.0, 1.0)),
    GroupSpectrum("toy", "a / q", 3, True, (4.0, 0.5)),
]


def check_files(files: tuple[Path, ...]) -> list[dict[str, str]]:
    png, svg, table = files
    with Image.open(png) as image:
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(2**24)) > 10
    assert ET.parse(svg).getroot().tag.endswith("svg")
    with table.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_wga_by_method(tmp_path: Path) -> None:
    rows = check_files(plot_wga_by_method(RESULTS, tmp_path / "wga"))
    assert [(r["dataset"], r["method"], int(r["seed"]), float(r["wga"])) for r in rows] == [
        (r.dataset, r.method, r.seed, r.wga) for r in RESULTS
    ]


def test_eigenvalues(tmp_path: Path) -> None:
    rows = check_files(plot_eigenvalues(SPECTRA, tmp_path / "eigenvalues"))
    assert [float(r["eigenvalue"]) for r in rows] == [3.0, 2.0, 1.0, 4.0, 0.5]
    assert [int(r["rank"]) for r in rows] == [1, 2, 3, 1, 2]


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    first = plot_wga_by_method(RESULTS, tmp_path / "1" / "wga")
    second = plot_wga_by_method(RESULTS, tmp_path / "2" / "wga")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_trajectories(tmp_path: Path) -> None:
    points = [
        TrajectoryPoint("toy", method, seed, epoch, epoch * (10 if method == "none" else 4), epoch * 100,
                        None if epoch == 3 else 0.5, 0.1 * epoch + 0.02 * seed, 0.9, 0.4)
        for method in ("none", "subsetting")
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    rows = check_files(plot_trajectories(points, tmp_path / "trajectories"))
    assert [(r["method"], int(r["seed"]), int(r["epoch"]), int(r["steps"]), float(r["wga"])) for r in rows] == [
        (p.method, p.seed, p.epoch, p.steps, p.wga) for p in points
    ]
    assert [r["loss"] for r in rows[:3]] == ["0.5", "0.5", ""]


def test_a_curve_is_the_mean_over_seeds_at_the_steps_taken() -> None:
    points = [TrajectoryPoint("toy", "mixture", s, e, 7 * e, 9, 0.5, w, 0.9, None)
              for s, curve in enumerate(((0.2, 0.4), (0.4, 0.8))) for e, w in enumerate(curve, start=1)]  # fmt: skip
    ax = Figure().subplots()
    _curve(ax, points, "steps")
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_xdata(), [7, 14])
    np.testing.assert_allclose(line.get_ydata(), [30, 60])
    (band,) = ax.collections
    np.testing.assert_allclose(sorted(set(band.get_paths()[0].vertices[:, 1].round(6))), [20, 40, 80])


def test_a_diamond_marks_the_best_epoch_on_validation() -> None:
    """Mean validation curve 0.3, 0.6, 0.5: the second epoch, where the mean test curve is 0.4."""
    val = ((0.2, 0.8, 0.5), (0.4, 0.4, 0.5))
    test = ((0.1, 0.3, 0.9), (0.3, 0.5, 0.7))
    points = [TrajectoryPoint("toy", "upsampling", s, e + 1, 5 * (e + 1), 9, 0.5, test[s][e], 0.9, val[s][e], 1.0)
              for s in (0, 1) for e in (0, 1, 2)]  # fmt: skip
    ax = Figure().subplots()
    _curve(ax, points, "epoch")
    curve, diamond = ax.get_lines()
    assert curve.get_label() == "upsampling (n = 2)"
    assert curve.get_color() == diamond.get_color() == "C2"
    np.testing.assert_allclose([diamond.get_xdata()[0], diamond.get_ydata()[0]], [2, 40])


def test_the_axis_names_the_split(tmp_path: Path) -> None:
    points = [TrajectoryPoint("toy", "none", 1, e, e, e, None, 0.5, 0.5, 0.5) for e in (1, 2)]
    _, svg, table = plot_trajectories(points, tmp_path / "curves", split="train")
    assert "train_average" in table.read_text(encoding="utf-8").splitlines()[0]
    # Texts are drawn as outlines; matplotlib keeps them as comments.
    assert "<!-- train worst-group accuracy (%) -->" in svg.read_text(encoding="utf-8")
