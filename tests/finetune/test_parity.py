"""The loop against a plain torch loop written here: same draws, batches, optimizer and schedule, same weights."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import digits, settings, small_backbone
from helpers import text_backbone, toy_texts
from torch import nn

from grobust.balancing import make_balancer
from grobust.data.dataset import GroupedDataset
from grobust.finetune._model import Classifier
from grobust.finetune.run import FinetuneResult, finetune
from grobust.finetune.settings import FinetuneOptimizer, FinetuneSettings
from grobust.models.backbone import Backbone
from grobust.models.run_files import BODY, HEAD, RunFiles
from grobust.settings import BalanceMethod, Schedule, WeightNormalization

STEPS = 50


def plain_loop(
    data: GroupedDataset, backbone: Backbone, s: FinetuneSettings, *, decay_vectors: bool
) -> dict[str, torch.Tensor]:
    """What a user would write: a network, a head, an optimizer, cross-entropy with class weights."""
    body, head = copy.deepcopy(backbone.network), nn.Linear(backbone.dim, data.groups.n_classes)
    start = Classifier(backbone, data.groups.n_classes, s).head
    head.load_state_dict(start.state_dict())
    model = nn.ModuleDict({"body": body, "head": head}).train()
    parameters = list(model.parameters())
    groups = [{"params": parameters}]
    if not decay_vectors:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
    if s.optimizer is FinetuneOptimizer.SGD:
        optimizer = torch.optim.SGD(groups, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    else:
        optimizer = torch.optim.AdamW(groups, lr=s.lr, weight_decay=s.weight_decay)
    rows = np.flatnonzero(data.split == 0)
    labels = data.groups.labels[rows]
    counts = np.bincount(labels)
    sample = make_balancer(s.balance, ratio=s.ratio, normalize=s.normalize).sample(data.groups.take(rows), seed=s.seed)
    weight = torch.tensor(counts.max() / counts, dtype=torch.float32) if s.balance == "upweighting" else None
    step, epoch, epochs = 0, 0, math.ceil(s.max_steps / math.ceil(len(sample) / s.batch_size))
    while step < s.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * s.lr * (1 + math.cos(math.pi * epoch / epochs))
        drawn = sample.draw(epoch)
        for begin in range(0, drawn.size, s.batch_size):
            chosen = drawn[begin : begin + s.batch_size]
            batch = backbone.collate([data[int(rows[i])] for i in chosen])
            logits = head(backbone.forward(body, batch))
            y = torch.from_numpy(labels[chosen])
            if s.normalize is WeightNormalization.BATCH or weight is None:
                loss = nn.functional.cross_entropy(logits, y, weight=weight)
            else:
                loss = (nn.functional.cross_entropy(logits, y, reduction="none") * weight[y]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == s.max_steps:
                break
        epoch += 1
    state = {f"{BODY}{name}": t for name, t in body.state_dict().items()}
    return state | {f"{HEAD}{name}": t for name, t in head.state_dict().items()}


def assert_same_weights(result: FinetuneResult, expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    _, found = RunFiles(result.path).read_network(result.epochs_kept[-1])
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (BalanceMethod.UPWEIGHTING, {}),
        (BalanceMethod.UPWEIGHTING, {"normalize": WeightNormalization.NONE}),
        (BalanceMethod.MIXTURE, {"optimizer": FinetuneOptimizer.SGD, "momentum": 0.9, "lr": 1e-2}),
    ],
)
def test_images_end_in_the_weights_of_a_plain_loop(method: BalanceMethod, changes: dict, tmp_path: Path) -> None:
    s = settings(
        **{"balance": method, "epochs": 30, "max_steps": STEPS, "lr": 1e-4, "augment": False, "eval_every": 100,
           "ratio": 1.5, **changes}
    )  # fmt: skip
    data, backbone = digits(), small_backbone()
    before = {name: t.clone() for name, t in backbone.network.state_dict().items()}
    result = finetune(data, backbone, s, out=tmp_path / "run")
    assert result.curve.evaluations[-1].step == STEPS
    # The caller's network stays as it is.
    assert all(torch.equal(t, before[name]) for name, t in backbone.network.state_dict().items())
    expected = plain_loop(data, backbone, s, decay_vectors=True)
    assert any(not torch.equal(expected[f"{BODY}{name}"], t) for name, t in before.items())
    assert_same_weights(result, expected)


def test_texts_end_in_the_weights_of_a_plain_loop(tmp_path: Path) -> None:
    """Weight decay leaves biases and norms alone."""
    s = settings(
        balance=BalanceMethod.UPSAMPLING, epochs=30, max_steps=STEPS, batch_size=8, lr=1e-2, weight_decay=0.3,
        schedule=Schedule.COSINE,
    )  # fmt: skip
    data, backbone = toy_texts(), text_backbone()
    result = finetune(data, backbone, s, out=tmp_path / "run")
    assert_same_weights(result, plain_loop(data, backbone, s, decay_vectors=False))
    with pytest.raises(AssertionError):
        assert_same_weights(result, plain_loop(data, backbone, s, decay_vectors=True))


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_pieces_of_a_batch_add_up(clip_norm: float | None, tmp_path: Path) -> None:
    """Accumulation changes memory, not the update.

    By SGD, whose update is linear in the gradient: AdamW divides by it, and where it is nothing but rounding, which
    differs between pieces and whole, a step of the full rate goes either way.
    """
    data, backbone = digits(), small_backbone()
    shared = {
        "balance": BalanceMethod.UPWEIGHTING, "max_steps": 12, "optimizer": FinetuneOptimizer.SGD, "momentum": 0.9,
        "lr": 1e-2, "label_smoothing": 0.1, "clip_norm": clip_norm,
    }  # fmt: skip
    whole = finetune(data, backbone, settings(**shared), out=tmp_path / "whole")
    pieces = finetune(data, backbone, settings(**shared, accumulate=3), out=tmp_path / "pieces")
    _, expected = RunFiles(whole.path).read_network(whole.epochs_kept[-1])
    assert_same_weights(pieces, expected, tolerance=1e-7)
    assert whole.curve.as_dict()["test"]["correct"] == pieces.curve.as_dict()["test"]["correct"]


def test_workers_see_the_same_inputs(tmp_path: Path) -> None:
    data, backbone = digits(), small_backbone()
    alone = finetune(data, backbone, settings(max_steps=8), out=tmp_path / "alone")
    worker = finetune(data, backbone, settings(max_steps=8, workers=1), out=tmp_path / "worker")
    _, expected = RunFiles(alone.path).read_network(alone.epochs_kept[-1])
    assert_same_weights(worker, expected, tolerance=0)
    assert alone.run == worker.run
