"""Finetune with Lightning on balanced minibatches, and measure every group.

    python examples/finetune_with_lightning.py --balance upweighting --epochs 5

Two things are grobust's: the sampler, and the loss weights that upweighting needs.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import grobust
from grobust.models.backbone import Backbone

Batch = tuple[dict[str, Tensor], Tensor, Tensor]


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


class Classifier(lightning.LightningModule):
    """A backbone and a linear head, trained with AdamW and one cosine over all epochs, as in the paper."""

    def __init__(self, backbone: Backbone, n_classes: int, *, lr: float, weight_decay: float = 1e-4) -> None:
        super().__init__()
        self.body, self.features = backbone.network, backbone.forward
        self.head = nn.Linear(backbone.dim, n_classes)
        self.lr, self.weight_decay = lr, weight_decay
        # Backbones come in evaluation mode, and Lightning leaves modules in the mode that they have.
        self.train()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.features(self.body, batch))

    def training_step(self, batch: Batch) -> Tensor:
        items, labels, weights = batch
        losses = nn.functional.cross_entropy(self(items), labels, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def predict_step(self, batch: Batch) -> Tensor:
        return self(batch[0]).argmax(1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def train(
    dataset: grobust.GroupedDataset, backbone: Backbone, *, balance: str, seed: int, epochs: int, lr: float = 1e-3,
    batch_size: int = 32,
) -> grobust.GroupMetrics:  # fmt: skip
    """Train on the training split; metrics of the test split."""
    rows = {split: np.flatnonzero(dataset.split == split) for split in grobust.Split}
    train_rows, test_rows = rows[grobust.Split.TRAIN], rows[grobust.Split.TEST]
    groups = dataset.groups.take(train_rows)
    sample = grobust.make_balancer(grobust.BalanceMethod(balance)).sample(groups, seed=seed)
    weights = np.ones(train_rows.size)
    weights[sample.indices] = sample.loss_weight

    def collate(rows: Sequence[tuple[Any, int, float]]) -> Batch:
        items, labels, loss_weights = zip(*rows, strict=True)
        return backbone.collate(items), torch.tensor(labels), torch.tensor(loss_weights)

    torch.manual_seed(seed)
    # Lightning calls the sampler's set_epoch before each epoch.
    balanced = DataLoader(
        Rows(dataset, train_rows, weights), batch_size=batch_size, sampler=grobust.BalancedSampler(sample),
        collate_fn=collate,
    )  # fmt: skip
    test = DataLoader(Rows(dataset, test_rows), batch_size=64, collate_fn=collate)
    model = Classifier(backbone, dataset.groups.n_classes, lr=lr)
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, balanced)
    predicted = torch.cat(trainer.predict(model, test)).cpu().numpy()
    return grobust.group_metrics(predicted, dataset.groups.take(test_rows), train_counts=groups.counts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--balance", default="mixture", choices=list(grobust.BalanceMethod))
    parser.add_argument("--preset", default="celeba", help="group shares of the digits")
    parser.add_argument("--backbone", default="timm:resnet10t@random")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    dataset = grobust.load_dataset(f"digits:{given.preset}")
    backbone = grobust.load_backbone(given.backbone, image_size=32)
    metrics = train(dataset, backbone, balance=given.balance, seed=given.seed, epochs=given.epochs)
    print(f"average {metrics.average.value:.3f}, worst group {metrics.worst_group_name}: {metrics.wga.value:.3f}")


if __name__ == "__main__":
    main()
