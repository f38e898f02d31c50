"""Finetune with Hugging Face's `Trainer` on balanced minibatches, and measure every group.

    python examples/finetune_with_trainer.py --balance mixture --rows 4000 --epochs 2

Two things are grobust's: the sampler, and the loss weights that upweighting needs.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments

import grobust
from grobust.data.tables import stratified_subset
from grobust.models.backbone import Backbone


class Rows(Dataset[tuple[Any, int, float]]):
    """Rows of a grouped data set: item, label and loss weight."""

    def __init__(self, dataset: grobust.GroupedDataset, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.dataset, self.rows = dataset, rows
        self.weights = np.ones(rows.size) if weights is None else weights

    def __len__(self) -> int:
        return self.rows.size

    def __getitem__(self, index: int) -> tuple[Any, int, float]:
        row = int(self.rows[index])
        return self.dataset[row], int(self.dataset.groups.labels[row]), float(self.weights[index])


class Classifier(nn.Module):
    """A backbone and a linear head. `Trainer` wants the loss and the logits."""

    def __init__(self, backbone: Backbone, n_classes: int) -> None:
        super().__init__()
        self.body, self.features = backbone.network, backbone.forward
        self.head = nn.Linear(backbone.dim, n_classes)

    def forward(self, batch: dict[str, Tensor], labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.features(self.body, batch))
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return {"loss": (losses * weights).sum() / weights.sum(), "logits": logits}


class BalancedTrainer(Trainer):
    """`Trainer` that draws its training rows as a balanced sample says; it sets the sampler's epoch by itself."""

    def __init__(self, sample: grobust.BalancedSample, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sampler = grobust.BalancedSampler(sample)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.sampler


def train(
    dataset: grobust.GroupedDataset, backbone: Backbone, *, balance: str, seed: int, epochs: int, out: Path,
    lr: float = 2e-5, batch_size: int = 32,
) -> grobust.GroupMetrics:  # fmt: skip
    """Train on the training split; metrics of the test split."""
    rows = {split: np.flatnonzero(dataset.split == split) for split in grobust.Split}
    train_rows, test_rows = rows[grobust.Split.TRAIN], rows[grobust.Split.TEST]
    groups = dataset.groups.take(train_rows)
    sample = grobust.make_balancer(grobust.BalanceMethod(balance)).sample(groups, seed=seed)
    weights = np.ones(train_rows.size)
    weights[sample.indices] = sample.loss_weight

    def collate(rows: Sequence[tuple[Any, int, float]]) -> dict[str, Any]:
        items, labels, loss_weights = zip(*rows, strict=True)
        return {"batch": backbone.collate(items), "labels": torch.tensor(labels), "weights": torch.tensor(loss_weights)}

    torch.manual_seed(seed)
    trainer = BalancedTrainer(
        sample,
        model=Classifier(backbone, dataset.groups.n_classes),
        args=TrainingArguments(
            output_dir=str(out), num_train_epochs=epochs, per_device_train_batch_size=batch_size, learning_rate=lr,
            weight_decay=1e-4, seed=seed, remove_unused_columns=False, save_strategy="no", report_to="none",
            logging_strategy="no", dataloader_pin_memory=torch.cuda.is_available(),
        ),
        data_collator=collate,
        train_dataset=Rows(dataset, train_rows, weights),
    )  # fmt: skip
    trainer.train()
    logits = trainer.predict(Rows(dataset, test_rows)).predictions
    return grobust.group_metrics(logits.argmax(1), dataset.groups.take(test_rows), train_counts=groups.counts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--balance", default="mixture", choices=list(grobust.BalanceMethod))
    parser.add_argument("--rows", type=int, default=4000, help="of the 38,158 tweets")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    dataset = stratified_subset(grobust.load_dataset("tweets"), given.rows, seed=given.seed)
    backbone = grobust.load_backbone("packaged:all-MiniLM-L6-v2", max_tokens=64)
    with tempfile.TemporaryDirectory() as out:
        metrics = train(
            dataset, backbone, balance=given.balance, seed=given.seed, epochs=given.epochs, out=Path(out)
        )  # fmt: skip
    print(f"average {metrics.average.value:.3f}, worst group {metrics.worst_group_name}: {metrics.wga.value:.3f}")


if __name__ == "__main__":
    main()
