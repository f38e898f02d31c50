"""What both estimators do once fitted: scores and predictions of a linear head, in scikit-learn's conventions."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from grobust.arrays import to_numpy
from grobust.classifier._inputs import FEATURE_DTYPES
from grobust.probe import FitStatus, Probe, ProbeFit

__all__ = ["LinearHead", "coefficients", "on_host", "row_blocks", "warn_if_not_converged"]

# Rows that are float64 at a time.
BLOCK = 4096


class LinearHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Scores and predictions from `coef_`, `intercept_` and `classes_`."""

    coef_: NDArray[Any]
    intercept_: NDArray[Any]
    classes_: NDArray[Any]

    def __sklearn_is_fitted__(self) -> bool:
        # A fit that failed has left the number of features behind, which scikit-learn would take for a fitted state.
        return hasattr(self, "coef_")

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Scores of rows X (n, d): (n) float64 for two classes, the log-odds of the second; else (n, k).

        Products are float64; rows of other dtypes are widened a block at a time.
        """
        check_is_fitted(self)
        features = validate_data(self, X, reset=False, dtype=FEATURE_DTYPES, accept_sparse=False)
        out = np.empty((features.shape[0], self.coef_.shape[0]))
        for rows in row_blocks(features.shape[0]):
            out[rows] = features[rows].astype(np.float64, copy=False) @ self.coef_.T + self.intercept_
        return out[:, 0] if self.classes_.size == 2 else out

    def predict(self, X: Any) -> NDArray[Any]:
        """(n) class labels with the highest score."""
        scores = self.decision_function(X)
        return np.asarray(self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)])

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """(n, k) float64 class probabilities, in the order of `classes_`."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.stack([expit(-scores), expit(scores)], axis=1)
        return np.asarray(softmax(scores, axis=1))

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """(n, k) float64 logarithms of the class probabilities, exact where those are 0."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.stack([log_expit(-scores), log_expit(scores)], axis=1)
        return np.asarray(log_softmax(scores, axis=1))


def row_blocks(n_rows: int) -> list[slice]:
    """Slices of at most `BLOCK` rows."""
    return [slice(lo, min(lo + BLOCK, n_rows)) for lo in range(0, n_rows, BLOCK)]


def coefficients(probe: Probe) -> tuple[NDArray[Any], NDArray[Any]]:
    """scikit-learn's coefficients (1 or k, d) and intercepts (1 or k) of a head; those of k > 2 classes sum to 0."""
    if probe.weight.shape[0] == 2:
        return probe.weight[1:] - probe.weight[:1], probe.bias[1:] - probe.bias[:1]
    return probe.weight, probe.bias - probe.bias.mean()


def on_host(fit: ProbeFit) -> ProbeFit:
    """The fit with NumPy weights."""
    return replace(fit, probe=Probe(to_numpy(fit.probe.weight), to_numpy(fit.probe.bias)))


def warn_if_not_converged(fit: ProbeFit) -> None:
    """scikit-learn's ConvergenceWarning with the message of the fit."""
    if fit.status is not FitStatus.CONVERGED:
        warnings.warn(f"{fit.message[0].upper()}{fit.message[1:]}.", ConvergenceWarning, stacklevel=4)
