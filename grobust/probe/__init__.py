"""Last-layer probes: many weighted multinomial logistic heads on the same features.

`fit_probes` solves them to a stated optimality; `train_heads` trains them on minibatches, epoch by epoch;
`evaluate_probes` counts what they get right, all in one pass.
"""

from grobust.probe._evaluate import evaluate_probes, logits_by_block
from grobust.probe._fit import feature_moments, fit_path, fit_probe, fit_probes
from grobust.probe._head import FitStatus, Head, Probe, ProbeFit
from grobust.probe._largest_l1 import largest_l1
from grobust.probe._stream import DeviceStream
from grobust.probe._train import TrainHead, Trajectories, train_heads
from grobust.settings import LBFGS, SGD

__all__ = [
    "LBFGS",
    "SGD",
    "DeviceStream",
    "FitStatus",
    "Head",
    "Probe",
    "ProbeFit",
    "TrainHead",
    "Trajectories",
    "evaluate_probes",
    "feature_moments",
    "fit_path",
    "fit_probe",
    "fit_probes",
    "largest_l1",
    "logits_by_block",
    "train_heads",
]
