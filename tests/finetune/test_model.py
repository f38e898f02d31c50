"""The network that is trained: its start, its parameters with and without decay, its tensors by name."""

import copy
from dataclasses import replace

import pytest
import torch
from finetune_runs import settings, small_backbone
from helpers import text_backbone
from torch import nn
from transformers import BertConfig, BertModel

from grobust.finetune._model import (
    Classifier,
    build_optimizer,
    derived_seed,
    freeze_unread,
    optimizer_tensors,
    restore_optimizer,
)
from grobust.finetune.choices import Decay
from grobust.models.backbone import Backbone


class WithPooler(nn.Linear):
    """A pooler that the features do not come from, as that of a BERT whose tokens are averaged."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.pooler = nn.Linear(2, 2)


def codes() -> dict[str, torch.Tensor]:
    return {"codes": torch.arange(24.0).reshape(4, 6)}


def test_the_head_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Classifier(text_backbone(), 3, settings(seed=5)).head.weight
    torch.manual_seed(2)
    same, other = (Classifier(text_backbone(), 3, settings(seed=seed)).head.weight for seed in (5, 6))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert len({derived_seed(2, 1, step, place) for step in range(50) for place in range(4)}) == 200


def test_parameters_without_gradients_are_not_announced() -> None:
    model = Classifier(replace(text_backbone(), network=WithPooler()), 2, settings())
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    freeze_unread(model, codes())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "body.pooler.weight", "body.pooler.bias"
    ]  # fmt: skip
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.tensors().items())


@pytest.mark.parametrize("decay", list(Decay))
def test_decay_is_on_what_it_says(decay: Decay) -> None:
    model = Classifier(small_backbone(), 2, settings())
    optimizer = build_optimizer(model, settings(weight_decay=0.25), decay)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        vector = name.endswith("bias") or p.ndim == 1
        assert decays[id(p)] == (0.0 if vector and decay is Decay.MATRICES else 0.25), name


def test_dropout_of_the_head_is_the_networks_own() -> None:
    config = BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.3,
    )  # fmt: skip
    bert = replace(text_backbone(), network=BertModel(config))
    assert Classifier(bert, 2, settings()).dropout.p == 0.3
    assert Classifier(bert, 2, settings(head_dropout=0.0)).dropout.p == 0.0
    assert Classifier(small_backbone(), 2, settings()).dropout.p == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(optimizer: str) -> None:
    """Two more steps after a restore, against two more steps without one: equal to the last bit."""
    chosen = settings(optimizer=optimizer, momentum=0.9)
    backbone: Backbone = small_backbone()
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def train(model: Classifier, steps: torch.optim.Optimizer, n: int) -> None:
        for _ in range(n):
            steps.zero_grad()
            model({"pixels": pixels}).square().sum().backward()
            steps.step()

    model = Classifier(backbone, 2, chosen)
    one = build_optimizer(model, chosen, Decay.ALL)
    train(model, one, 3)
    tensors = copy.deepcopy(model.tensors())
    moments = {(key, name): tensor.clone() for key, name, tensor in optimizer_tensors(model, one)}
    assert moments
    train(model, one, 2)
    again = Classifier(backbone, 2, chosen)
    again.load_tensors(tensors)
    other = build_optimizer(again, chosen, Decay.ALL)
    restore_optimizer(again, other, moments)
    train(again, other, 2)
    expected = model.tensors()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.tensors().items())
