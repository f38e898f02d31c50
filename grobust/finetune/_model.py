"""The network that is trained: a backbone's body, dropout and a new linear head; and its optimizer."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from grobust.finetune.settings import Decay, FinetuneOptimizer, FinetuneSettings
from grobust.models.backbone import Backbone
from grobust.models.run_files import BODY, HEAD

__all__ = [
    "AUGMENT_STREAM",
    "STEP_STREAM",
    "Classifier",
    "build_optimizer",
    "derived_seed",
    "freeze_unread",
    "optimizer_tensors",
    "restore_optimizer",
]

# The classifiers of BERT and ConvNeXt begin so in transformers.
HEAD_STD = 0.02
# Purposes of random numbers: two of them never share a stream.
HEAD_STREAM, STEP_STREAM, AUGMENT_STREAM = 1, 2, 3


def derived_seed(*parts: int) -> int:
    """A 63-bit seed that is a function of the parts alone."""
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)
    return int(state[0]) >> 1


class Classifier(nn.Module):
    """Batch → logits (b, k). The body is a copy: the caller's network stays as it is."""

    def __init__(self, backbone: Backbone, n_classes: int, settings: FinetuneSettings) -> None:
        super().__init__()
        self.body = copy.deepcopy(backbone.network)
        self.dropout = nn.Dropout(_dropout(backbone, settings))
        self.head = nn.Linear(backbone.dim, n_classes)
        self._features = backbone.forward
        generator = torch.Generator().manual_seed(derived_seed(HEAD_STREAM, settings.seed))
        with torch.no_grad():
            self.head.weight.normal_(0, HEAD_STD, generator=generator)
            self.head.bias.zero_()
        if backbone.kind == "image":
            layout = torch.channels_last if settings.channels_last else torch.contiguous_format
            self.body.to(memory_format=layout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (b, k) of a batch on the network's device."""
        logits: Tensor = self.head(self.dropout(self._features(self.body, batch)))
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """The whole network by name, `body.` and `head.`."""
        parts = ((BODY, self.body), (HEAD, self.head))
        return {prefix + name: tensor for prefix, part in parts for name, tensor in part.state_dict().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; keeps the memory layout. RuntimeError if they do not fit."""
        for prefix, part in ((BODY, self.body), (HEAD, self.head)):
            part.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})


def build_optimizer(model: Classifier, settings: FinetuneSettings, decay: Decay) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over all parameters, in one group with and one without weight decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in named if decay is Decay.ALL or p.ndim > 1]
    bare = [p for _, p in named if not (decay is Decay.ALL or p.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}]
    if bare:
        groups.append({"params": bare, "weight_decay": 0.0})
    if settings.optimizer is FinetuneOptimizer.SGD:
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kind: Callable[..., torch.optim.Optimizer] = (
        torch.optim.AdamW if settings.optimizer is FinetuneOptimizer.ADAMW else torch.optim.Adam
    )
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.epsilon)


def freeze_unread(model: Classifier, batch: dict[str, Tensor]) -> None:
    """Switch off gradients of parameters that the logits do not depend on (a pooler that the pooling leaves out).

    They have none anyway, but processes that train together wait for every gradient that is announced.
    """
    model.eval()
    model(batch).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    model.train()


def optimizer_tensors(model: Classifier, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    """(key, parameter's name, tensor) of the optimizer's state."""
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield key, name, value


def restore_optimizer(
    model: Classifier, optimizer: torch.optim.Optimizer, tensors: dict[tuple[str, str], Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave, each in the memory layout of its parameter.

    Elementwise arithmetic on other strides takes other loops, whose last bits can differ.
    """
    parameters = dict(model.named_parameters())
    for (key, name), tensor in tensors.items():
        parameter = parameters[name]
        like = parameter.detach() if tensor.shape == parameter.shape and key != "step" else tensor
        optimizer.state[parameter][key] = torch.empty_like(like).copy_(tensor)


def _dropout(backbone: Backbone, settings: FinetuneSettings) -> float:
    if settings.head_dropout is not None:
        return settings.head_dropout
    config = getattr(backbone.network, "config", None)
    if backbone.kind == "image" or config is None:
        return 0.0
    own = getattr(config, "classifier_dropout", None)
    return float(getattr(config, "hidden_dropout_prob", 0.0) if own is None else own)
