"""Choices of finetuning that the command line shows. Loads nothing."""

from enum import StrEnum

__all__ = ["TRACKERS", "Decay", "FinetuneOptimizer"]

TRACKERS = ("tensorboard", "wandb", "mlflow")


class FinetuneOptimizer(StrEnum):
    """Update, as in torch.optim."""

    ADAMW = "adamw"
    ADAM = "adam"
    SGD = "sgd"


class Decay(StrEnum):
    """What weight decay is on: every parameter, or all but biases and the weights of normalization layers."""

    ALL = "all"
    MATRICES = "matrices"
