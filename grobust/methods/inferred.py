"""Group methods on inferred groups: clusters of each class (GEORGE), or environments of an ERM head (EIIL).

Pseudo-groups of training rows take the place of groups: group DRO over them, or drawing them alike. The strength is
chosen by worst-pseudo-group accuracy on validation rows. No attribute is read anywhere.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from grobust.balancing import Upsampling
from grobust.errors import ConfigError
from grobust.groups import Groups
from grobust.methods.balanced import L2, fit_strengths
from grobust.methods.choose import erm_head
from grobust.methods.group_dro import fit_group_dro
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit
from grobust.methods.pseudo_groups import clusters_by_class, environments
from grobust.settings import BalanceBy, SelectBy

__all__ = ["Inference", "InferredGroups", "Objective"]


class Inference(StrEnum):
    """Where pseudo-groups come from."""

    CLUSTERS = "clusters"
    ENVIRONMENTS = "environments"


class Objective(StrEnum):
    """What is done with them."""

    GROUP_DRO = "group-dro"
    BALANCED = "balanced"


@dataclass(frozen=True)
class InferredGroups:
    """A group method on pseudo-groups.

    Parameters
    ----------
    inference : where pseudo-groups come from
    objective : group DRO over them, or drawing them alike
    clusters : per class
    erm_l2 : strength of the head that environments are inferred from
    l2 : strengths to choose from
    """

    inference: Inference = Inference.CLUSTERS
    objective: Objective = Objective.GROUP_DRO
    clusters: int = 2
    erm_l2: float = 1e-2
    l2: tuple[float, ...] = L2

    def __post_init__(self) -> None:
        if self.clusters < 2:
            raise ConfigError(f"clusters must be at least 2, got {self.clusters}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        by_clusters = self.inference is Inference.CLUSTERS
        return About(
            f"{self.objective} on {'clusters of each class' if by_clusters else 'environments of an ERM head'}",
            "Sohoni et al. 2020 (GEORGE)" if by_clusters else "Creager et al. 2021 (EIIL)",
            f"{'k-means' if by_clusters else 'a head'}, then the objective per strength", random=by_clusters,
        )  # fmt: skip

    @property
    def needs(self) -> LabelNeeds:
        """Class labels only."""
        return LabelNeeds(selection=Labels.CLASS)

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The strength with the best accuracy on the worst pseudo-group of validation rows."""
        if self.inference is Inference.CLUSTERS:
            on_train, on_validation = clusters_by_class(train, validation, self.clusters, seed=seed)
        else:
            erm = erm_head(train, self.erm_l2).probe
            on_train, on_validation = environments(erm, train), environments(erm, validation)
        seen, chooser = train.with_groups(on_train), validation.with_groups(on_validation)
        if self.objective is Objective.GROUP_DRO:
            fit = fit_group_dro(seen, chooser, self.l2, SelectBy.WGA)
        else:
            sample = Upsampling(by=BalanceBy.GROUP).sample(on_train, seed=seed)
            fit = fit_strengths(seen, chooser, sample.expected_weights(), self.l2, SelectBy.WGA, notes=sample.notes)
        counts = {f"rows[{n}]": float(c) for n, c in zip(on_train.names, on_train.counts, strict=True)}
        return replace(fit, details={**fit.details, **counts}, notes=fit.notes + _notes(on_train))


def _notes(groups: Groups) -> tuple[str, ...]:
    per_class = (groups.counts.reshape(groups.n_classes, -1) > 0).sum(axis=1)
    if (per_class < 2).all():
        return ("no class has more than one pseudo-group: this is a class-wise method here",)
    return ()
