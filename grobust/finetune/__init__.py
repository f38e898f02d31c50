"""Full finetuning: balanced minibatches, schedules, recipes, and the training loop.

Names load on first use, so that settings and recipes load no torch. The function stands here and not in `grobust`,
where this package has its name: ``from grobust.finetune import finetune``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grobust.finetune.run import FinetuneProgress, FinetuneResult, finetune
    from grobust.finetune.sampler import BalancedSampler
    from grobust.finetune.settings import FinetuneSettings

__all__ = ["BalancedSampler", "FinetuneProgress", "FinetuneResult", "FinetuneSettings", "finetune"]

_HOME = {
    "BalancedSampler": "grobust.finetune.sampler",
    "FinetuneProgress": "grobust.finetune.run",
    "FinetuneResult": "grobust.finetune.run",
    "FinetuneSettings": "grobust.finetune.settings",
    "finetune": "grobust.finetune.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'grobust.finetune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
