"""uLA: logit adjustment by what a bias proxy predicts.

Tsirigotis, Monteiro, Rodriguez, Vazquez and Courville 2023, "Group robust classification without any group
information". A proxy, a linear head that knows only what is easy, gives the joint shares P(j, k) of its own prediction
j and the class k (the mean of its probabilities against the labels, which their running average tends to). The head is
trained with logits f(x) + τ log P(k | b(x)), b(x) the proxy's prediction; f alone predicts. Chosen by the
bias-unsupervised score: the mean accuracy over the (proxy prediction, class) strata that occur in validation.

Their proxy is a linear head on a frozen self-supervised backbone. Here it is a linear head on `Features.early` where
that is given (the features before finetuning, say), else on the features themselves with a strong penalty.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError
from grobust.groups import Groups
from grobust.methods._batch import Standard, probabilities
from grobust.methods._risk import minimize_risk, not_converged, weighted_mean
from grobust.methods.balanced import L2
from grobust.methods.choose import choose, erm_head
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit
from grobust.settings import SelectBy

__all__ = ["ULA"]


@dataclass(frozen=True)
class ULA:
    """Unsupervised logit adjustment.

    Parameters
    ----------
    tau : τ to choose from
    proxy_l2 : strength of the proxy
    l2 : strengths to choose from
    """

    tau: tuple[float, ...] = (1.0,)
    proxy_l2: float = 1e-1
    l2: tuple[float, ...] = L2

    def __post_init__(self) -> None:
        if not self.tau or not all(np.isfinite(t) and t >= 0 for t in self.tau):
            raise ConfigError(f"tau must be numbers of at least 0, got {self.tau!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        heads = len(self.tau) * len(self.l2)
        return About("uLA", "Tsirigotis et al. 2023", f"a proxy, then {heads} heads, full-batch", random=False)

    @property
    def needs(self) -> LabelNeeds:
        """Class labels only."""
        return LabelNeeds(selection=Labels.CLASS)

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """τ and the strength with the best bias-unsupervised score."""
        seen, other = _as_proxy_sees(train), _as_proxy_sees(validation)
        proxy = erm_head(seen, self.proxy_l2).probe
        p = probabilities(proxy, seen)
        predicted = p.argmax(axis=1)
        conditional = _log_conditional(p, train.labels)[predicted]
        data, risk = Standard.of(train), weighted_mean(np.ones(len(train)))
        fits, settings = [], []
        for tau in self.tau:
            for l2 in self.l2:
                fits.append(minimize_risk(data, train.labels, train.n_classes, risk, l2=l2, offsets=tau * conditional))
                settings.append({"tau": tau, "l2": l2})
        strata = _strata(proxy.predict(other.values), validation.groups)
        probes = [fit.probe for fit in fits]
        pick, tried = choose(probes, settings, validation.with_groups(strata), SelectBy.AVERAGE_GROUP)
        notes = [*not_converged(fits)]
        if (predicted == train.labels).all():
            notes.append("the bias proxy is always right: uLA has nothing to adjust by; raise proxy_l2")
        return MethodFit(
            probe=probes[pick], chosen=tried[pick].settings, tried=tried, held_out=validation.rows,
            details={"proxy_accuracy": float((predicted == train.labels).mean())}, notes=tuple(notes),
        )  # fmt: skip


def _as_proxy_sees(rows: Features) -> Features:
    return rows if rows.early is None else replace(rows, values=rows.early)


def _log_conditional(p: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """(k, k) log P(class | proxy prediction) of proxy probabilities (n, k)."""
    joint = p.T @ np.eye(p.shape[1])[labels]
    return np.asarray(np.log(np.maximum(joint, 1e-300)) - np.log(joint.sum(axis=1, keepdims=True)))


def _strata(predicted: NDArray[Any], groups: Groups) -> Groups:
    """Classes, with what the proxy predicts in the attribute's place."""
    names = tuple(f"proxy {name}" for name in groups.class_names)
    return Groups.from_arrays(groups.labels, predicted, class_names=groups.class_names, attribute_names=names)
