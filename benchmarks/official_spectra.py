"""Spectra as the paper's released code computes them (``exps/postprocess.py`` of commit f083963), features at hand."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["gathered_by_batches", "official"]


def official(x: torch.Tensor, top: int, *, steps: int | None = None) -> NDArray[Any]:
    """Eigenvalues of one class or group (n, d): float32, rows less their mean twice, lobpcg as it comes.

    lobpcg makes up to 1,000 steps unless `steps` says less. k is smaller than asked only where lobpcg would refuse.
    """
    mean = torch.mean(x, 0)
    covariance = torch.matmul((x - mean).T, (x - mean))
    covariance /= len(x)
    found = torch.lobpcg(covariance, k=min(top, len(x) - 1, len(covariance) // 3), niter=steps)[0]
    return np.asarray(found.cpu())


def gathered_by_batches(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Rows of a class or group, batch after batch: each time, all that came before is copied."""
    gathered = torch.empty(0)
    for i, batch in enumerate(batches):
        gathered = torch.concat((gathered, batch)) if i else batch
    return gathered
