"""Comparing methods: paired over seeds, by bootstrap over rows, corrected for the number of comparisons."""

from grobust.comparison._rows import RowBootstrap, bootstrap_rows
from grobust.comparison._seeds import Paired, mean_interval, paired_over_seeds, seeds_needed, sign_flip_p
from grobust.comparison._tests import Difference, holm

__all__ = [
    "Difference",
    "Paired",
    "RowBootstrap",
    "bootstrap_rows",
    "holm",
    "mean_interval",
    "paired_over_seeds",
    "seeds_needed",
    "sign_flip_p",
]
