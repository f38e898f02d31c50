"""Figures: files that open, numbers behind them that are the input, the same bytes every time."""

import csv
import xml.etree.ElementTree as ET
from pathlib import Path

from PIL import Image

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
