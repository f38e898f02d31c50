"""The examples run, and what they train on is what the balanced sample draws."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import text_backbone, toy_texts

import grobust
from grobust.data.tables import Texts
from grobust.metrics import group_metrics

EXAMPLES = Path(__file__).parents[2] / "examples"
# Lightning's own, about loaders without workers and about torch's names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Spied(Texts):
    """Texts that note which row is asked for."""

    def __getitem__(self, index: int) -> str:
        self.__dict__.setdefault("asked", []).append(index)
        return super().__getitem__(index)


def spied(n: int = 60) -> Spied:
    toy = toy_texts(n)
    return Spied(name=toy.name, groups=toy.groups, split=toy.split, sample_ids=toy.sample_ids, texts=toy.texts)


def check_run(module: ModuleType, balance: str, extra: dict[str, Any]) -> None:
    dataset, backbone, epochs = spied(), text_backbone(), 3
    with torch.random.fork_rng(devices=[]):
        metrics = module.train(
            dataset, backbone, balance=balance, seed=2, epochs=epochs, lr=1e-2, batch_size=8, **extra
        )
    rows = {split: np.flatnonzero(dataset.split == split) for split in grobust.Split}
    train_rows, test_rows = rows[grobust.Split.TRAIN], rows[grobust.Split.TEST]
    sample = grobust.make_balancer(grobust.BalanceMethod(balance)).sample(dataset.groups.take(train_rows), seed=2)
    drawn = np.concatenate([sample.draw(epoch) for epoch in range(epochs)])
    assert dataset.asked == [*train_rows[drawn].tolist(), *test_rows.tolist()]
    assert metrics.counts.tolist() == dataset.groups.take(test_rows).counts.tolist()
    # The caller's network is what was trained, and `text_backbone` says how it began.
    assert not torch.equal(backbone.network.weight, text_backbone().network.weight)


@pytest.mark.parametrize("balance", ["none", "subsetting", "upsampling", "mixture"])
def test_trainer(balance: str, tmp_path: Path) -> None:
    check_run(example("finetune_with_trainer"), balance, {"out": tmp_path})


@pytest.mark.parametrize("balance", ["none", "subsetting", "upsampling", "mixture"])
def test_lightning(balance: str) -> None:
    check_run(example("finetune_with_lightning"), balance, {})


def test_both_weight_losses_alike() -> None:
    """One step of upweighting: both libraries' gradients are those of the weighted mean written out here."""
    dataset = toy_texts(50)
    train_rows = np.flatnonzero(dataset.split == grobust.Split.TRAIN)
    groups = dataset.groups.take(train_rows)
    sample = grobust.Upweighting().sample(groups, seed=2)
    weights = torch.tensor(sample.loss_weight, dtype=torch.float32)
    assert weights.unique().numel() == 2
    labels = torch.tensor(groups.labels)
    trainer, lightning = example("finetune_with_trainer"), example("finetune_with_lightning")
    gradients = []
    for build in (trainer.Classifier, lambda backbone, k: lightning.Classifier(backbone, k, lr=0.1)):
        torch.manual_seed(0)
        backbone = text_backbone()
        model = build(backbone, 2)
        batch = backbone.collate([dataset[row] for row in train_rows.tolist()])
        loss = (
            model(batch, labels, weights)["loss"]
            if isinstance(model, trainer.Classifier)
            else model.training_step((batch, labels, weights))
        )
        logits = model.head(backbone.forward(model.body, batch))
        per_row = torch.logsumexp(logits, 1) - logits[torch.arange(len(labels)), labels]
        torch.testing.assert_close(loss, (per_row * weights).sum() / weights.sum())
        loss.backward()
        gradients.append(model.head.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_the_trainer_example_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng(devices=[]):
        example("finetune_with_trainer").main(["--rows", "40", "--epochs", "1", "--balance", "subsetting"])
    assert re.search(r"^average [01]\.\d{3}, worst group .+: [01]\.\d{3}$", capsys.readouterr().out, re.MULTILINE)


def test_the_lightning_example_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "celeba", "--backbone", "timm:test_convnext@random", "--epochs", "1", "--balance"]
    with torch.random.fork_rng(devices=[]):
        example("finetune_with_lightning").main([*arguments, "subsetting"])
    assert re.search(r"^average [01]\.\d{3}, worst group .+: [01]\.\d{3}$", capsys.readouterr().out, re.MULTILINE)


def test_training_helps() -> None:
    """Texts whose label is whether they are long: the linear toy network learns that from balanced draws."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [110, 30])
    texts = tuple("a" * int(rng.integers(20, 30) if label else rng.integers(2, 12)) for label in labels)
    split = np.arange(140) % 2 * 2
    dataset = Texts(
        name="lengths", groups=grobust.Groups.from_arrays(labels, rng.integers(2, size=140)),
        split=split.astype(np.int8), sample_ids=tuple(map(str, range(140))), texts=texts,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        metrics = example("finetune_with_lightning").train(
            dataset, text_backbone(), balance="upsampling", seed=1, epochs=30, lr=0.05
        )
    test = np.flatnonzero(split == 2)
    blind = group_metrics(np.zeros(test.size, dtype=np.int64), dataset.groups.take(test))
    assert metrics.wga.value > 0.9 > blind.wga.value
