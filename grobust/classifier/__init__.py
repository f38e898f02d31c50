"""scikit-learn estimators: a linear classifier on balanced rows, and one that chooses balance and strength itself."""

from grobust.classifier._estimator import GroupRobustClassifier
from grobust.classifier._scoring import StratifiedCellKFold, make_wga_scorer, wga_score
from grobust.classifier._search import GroupRobustClassifierCV

__all__ = [
    "GroupRobustClassifier",
    "GroupRobustClassifierCV",
    "StratifiedCellKFold",
    "make_wga_scorer",
    "wga_score",
]
