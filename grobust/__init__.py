"""Group robustness in an afternoon.

Feature stores, class balancing, last-layer probes, worst-group accuracy and covariance spectra, after LaBonte et al.,
"The Group Robustness is in the Details" (NeurIPS 2024).

Public names load on first use, so that ``import grobust`` and ``grobust --help`` load neither torch nor CuPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grobust.balancing import (
        BalancedSample,
        BalanceSummary,
        Mixture,
        NoBalancing,
        Subsetting,
        Upsampling,
        Upweighting,
        balance_summary,
        make_balancer,
    )
    from grobust.classifier import (
        GroupRobustClassifier,
        GroupRobustClassifierCV,
        StratifiedCellKFold,
        make_wga_scorer,
        wga_score,
    )
    from grobust.data.catalog import load_dataset
    from grobust.data.dataset import GroupedDataset, Split
    from grobust.errors import GrobustError
    from grobust.features._schema import Provenance
    from grobust.features.extract import ExtractSettings, extract_features, extract_together
    from grobust.features.parallel.local import ProcessCrew
    from grobust.features.store import FeatureStore
    from grobust.finetune.run import FinetuneResult
    from grobust.finetune.sampler import BalancedSampler
    from grobust.finetune.settings import FinetuneSettings
    from grobust.groups import Groups, GroupScheme
    from grobust.heads import HeadInfo, Heads, load_heads, save_heads
    from grobust.held_out import HeldOutHalf, held_out_half
    from grobust.importing.importer import ImportSettings, import_features
    from grobust.metrics import GroupMetrics, group_metrics
    from grobust.models.backbones import load_backbone, load_backbones
    from grobust.probe import Head, Probe, ProbeFit, fit_probe, fit_probes
    from grobust.selection import Selector, ValidationArrays, fit_bias_proxy
    from grobust.settings import LBFGS, BalanceBy, BalanceMethod, SelectBy
    from grobust.spectrum import (
        NormRatio,
        RatioInference,
        Spectra,
        class_spectra,
        diagnose,
        group_spectra,
        norm_ratios,
        ratio_inference,
    )

__version__ = "0.1.0"

_HOMES = {
    "grobust.balancing": (
        "BalanceSummary", "BalancedSample", "Mixture", "NoBalancing", "Subsetting", "Upsampling", "Upweighting",
        "balance_summary", "make_balancer",
    ),
    "grobust.classifier": (
        "GroupRobustClassifier", "GroupRobustClassifierCV", "StratifiedCellKFold", "make_wga_scorer", "wga_score",
    ),
    "grobust.data.catalog": ("load_dataset",),
    "grobust.data.dataset": ("GroupedDataset", "Split"),
    "grobust.errors": ("GrobustError",),
    "grobust.features._schema": ("Provenance",),
    "grobust.features.extract": ("ExtractSettings", "extract_features", "extract_together"),
    "grobust.features.parallel.local": ("ProcessCrew",),
    "grobust.features.store": ("FeatureStore",),
    "grobust.finetune.run": ("FinetuneResult",),
    "grobust.finetune.sampler": ("BalancedSampler",),
    "grobust.finetune.settings": ("FinetuneSettings",),
    "grobust.groups": ("GroupScheme", "Groups"),
    "grobust.heads": ("HeadInfo", "Heads", "load_heads", "save_heads"),
    "grobust.importing.importer": ("ImportSettings", "import_features"),
    "grobust.held_out": ("HeldOutHalf", "held_out_half"),
    "grobust.metrics": ("GroupMetrics", "group_metrics"),
    "grobust.models.backbones": ("load_backbone", "load_backbones"),
    "grobust.probe": ("Head", "Probe", "ProbeFit", "fit_probe", "fit_probes"),
    "grobust.selection": ("Selector", "ValidationArrays", "fit_bias_proxy"),
    "grobust.settings": ("LBFGS", "BalanceBy", "BalanceMethod", "SelectBy"),
    "grobust.spectrum": (
        "NormRatio", "RatioInference", "Spectra", "class_spectra", "diagnose", "group_spectra", "norm_ratios",
        "ratio_inference",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "LBFGS",
    "BalanceBy",
    "BalanceMethod",
    "BalanceSummary",
    "BalancedSample",
    "BalancedSampler",
    "ExtractSettings",
    "FeatureStore",
    "FinetuneResult",
    "FinetuneSettings",
    "GrobustError",
    "GroupMetrics",
    "GroupRobustClassifier",
    "GroupRobustClassifierCV",
    "GroupScheme",
    "GroupedDataset",
    "Groups",
    "Head",
    "HeadInfo",
    "Heads",
    "HeldOutHalf",
    "ImportSettings",
    "Mixture",
    "NoBalancing",
    "NormRatio",
    "Probe",
    "ProbeFit",
    "ProcessCrew",
    "Provenance",
    "RatioInference",
    "SelectBy",
    "Selector",
    "Spectra",
    "Split",
    "StratifiedCellKFold",
    "Subsetting",
    "Upsampling",
    "Upweighting",
    "ValidationArrays",
    "__version__",
    "balance_summary",
    "class_spectra",
    "diagnose",
    "extract_features",
    "extract_together",
    "fit_bias_proxy",
    "fit_probe",
    "fit_probes",
    "group_metrics",
    "group_spectra",
    "held_out_half",
    "import_features",
    "load_backbone",
    "load_backbones",
    "load_dataset",
    "load_heads",
    "make_balancer",
    "make_wga_scorer",
    "norm_ratios",
    "ratio_inference",
    "save_heads",
    "wga_score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'grobust' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
