"""What anybody would write in torch: heads one after another by L-BFGS, and a head trained on minibatches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from grobust.balancing import BalancedSample
from grobust.groups import Groups
from grobust.probe import Head, Probe

__all__ = ["torch_heads", "torch_trajectory"]


def torch_heads(
    features: NDArray[Any], labels: NDArray[Any], heads: Sequence[Head], n_classes: int, device: str
) -> list[Probe]:
    """Weighted softmax heads in float32 by `torch.optim.LBFGS` with its line search."""
    x = torch.as_tensor(features, device=device).float()
    y = torch.as_tensor(labels, device=device)
    found = []
    for head in heads:
        weights = np.ones(labels.size) if head.weights is None else head.weights
        share = torch.as_tensor(weights / weights.sum(), dtype=torch.float32, device=device)
        w = torch.zeros((n_classes, x.shape[1]), device=device, requires_grad=True)
        b = torch.zeros(n_classes, device=device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [w, b], max_iter=1000, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-7,
            tolerance_change=1e-10,
        )  # fmt: skip

        def closure(w: Any = w, b: Any = b, share: Any = share, head: Head = head, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (nn.functional.cross_entropy(x @ w.T + b, y, reduction="none") * share).sum()
            loss = loss + 0.5 * head.l2 * (w**2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        found.append(Probe(w.detach().double().cpu().numpy(), b.detach().double().cpu().numpy()))
    return found


def torch_trajectory(
    features: NDArray[Any], groups: Groups, sample: BalancedSample, epochs: int, device: str
) -> list[NDArray[Any]]:
    """A linear head trained with SGD on features that are on the device, group accuracies after every epoch."""
    x = torch.as_tensor(features, device=device)
    y, ids = torch.as_tensor(groups.labels, device=device), torch.as_tensor(groups.ids, device=device)
    weights = torch.zeros(len(groups), device=device)
    weights[torch.as_tensor(sample.indices, device=device)] = torch.as_tensor(
        sample.loss_weight, dtype=torch.float32, device=device
    )
    linear = nn.Linear(x.shape[1], int(y.max()) + 1, device=device)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4)
    curves = []
    for epoch in range(epochs):
        order = torch.as_tensor(sample.draw(epoch), device=device)
        for batch in order.split(32):
            loss = nn.functional.cross_entropy(linear(x[batch]), y[batch], reduction="none")
            loss = (loss * weights[batch]).sum() / weights[batch].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = linear(x).argmax(dim=1) == y
            curves.append(torch.bincount(ids, weights=right.double(), minlength=groups.n_groups).cpu().numpy())
    return curves
