"""The collapse table: means, standard deviations and epochs as computed by hand."""

import pytest

from grobust.experiments.collapse import collapse, collapse_by_method
from grobust_cli._collapse_tables import show_collapse


def test_one_row_per_method(capsys: pytest.CaptureFixture[str]) -> None:
    """Validation drops of 30 and 10 points: 20 ± 10; test drops of −5 and 25 points: 10 ± 15."""
    curves = [
        {"steps": [5, 10], "val": {"wga": [0.6, 0.3]}, "test": {"wga": [0.5, 0.55]}, "train": {"average": [1.0, 1.0]}},
        {"steps": [5, 10], "val": {"wga": [0.4, 0.3]}, "test": {"wga": [0.5, 0.25]}, "train": {"average": [0.9, 0.9]}},
    ]
    runs = [collapse(curve, method="upsampling", seed=seed) for seed, curve in enumerate(curves)]
    bare = collapse({"steps": [5], "train": {"average": [0.9]}}, method="none", seed=0)
    show_collapse(collapse_by_method([*runs, bare]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    upsampling = next(" ".join(words) for words in lines if words[:1] == ["upsampling"])
    assert upsampling == (
        "upsampling 2 50.0 ± 10.0 1, 1 30.0 ± 0.0 20.0 ± 10.0 50.0 ± 0.0 40.0 ± 15.0 10.0 ± 15.0 1, –"
    )
    none = next(words for words in lines if words[:1] == ["none"])
    assert none == ["none", "1", *["–"] * 8]
