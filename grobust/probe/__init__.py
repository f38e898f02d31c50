"""Last-layer probes: many weighted multinomial logistic heads on the same features, each to a stated optimality."""

from grobust.probe._fit import FitStatus, Head, Probe, ProbeFit, fit_path, fit_probe, fit_probes
from grobust.settings import LBFGS

__all__ = ["LBFGS", "FitStatus", "Head", "Probe", "ProbeFit", "fit_path", "fit_probe", "fit_probes"]
