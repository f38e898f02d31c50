"""An early model: a head on an early checkpoint's features, or a head that has trained for a short while."""

from dataclasses import replace

from grobust.balancing import NoBalancing
from grobust.methods.choose import erm_head
from grobust.methods.method import Features
from grobust.probe import Probe, TrainHead, train_heads
from grobust.settings import SGD

__all__ = ["early_head", "trained_head"]

LEARNING_RATE, WEIGHT_DECAY = 1e-2, 1e-4


def early_head(train: Features, l2: float, epochs: int, seed: int) -> Probe:
    """On `train.early` where there is one, to the optimum; else `trained_head`."""
    if train.early is not None:
        return erm_head(replace(train, values=train.early), l2).probe
    return trained_head(train, epochs, seed)


def trained_head(train: Features, epochs: int, seed: int) -> Probe:
    """On the features, after so many epochs of SGD over all rows from zero."""
    sample = NoBalancing().sample(train.groups, seed=seed)
    head = TrainHead(sample, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    found = train_heads(
        train.values, train.labels, [head], n_classes=train.n_classes, evaluate={}, settings=SGD(epochs=epochs)
    )
    return found.probes[0]
