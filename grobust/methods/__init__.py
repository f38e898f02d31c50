"""Methods of the group-robustness literature on stored features, one file each.

A method is a frozen settings object, called with the features of training and validation rows and a seed; it returns a
`MethodFit`: a head, what it was chosen from, and notes. It states the labels that it needs (`LabelNeeds`) and its
source (`About`). `METHODS` has all of them by name, with the published settings.

Not here, since they train the network: correct-n-contrast (Zhang et al. 2022), LISA (Yao et al. 2022), mixup (Zhang et
al. 2018), learning from failure (Nam et al. 2020).
"""

from grobust.methods.afr import AFR
from grobust.methods.balanced import Balanced
from grobust.methods.catalog import METHODS, check_attributes, known_method, make_method, setting_names
from grobust.methods.crt import CRT
from grobust.methods.cvar_dro import CVaRDRO
from grobust.methods.dfr import DFR
from grobust.methods.evals import EVaLS
from grobust.methods.group_dro import GroupDRO
from grobust.methods.inferred import InferredGroups
from grobust.methods.jtt import JTT
from grobust.methods.llr import LLR
from grobust.methods.logit_adjustment import LogitAdjustment
from grobust.methods.method import About, Features, LabelNeeds, Labels, Method, MethodFit, Tried, halves
from grobust.methods.pseudo_groups import clusters_by_class, environments
from grobust.methods.rad_uw import RADUW
from grobust.methods.self_llr import SELF
from grobust.methods.ula import ULA

__all__ = [
    "AFR",
    "CRT",
    "DFR",
    "JTT",
    "LLR",
    "METHODS",
    "RADUW",
    "SELF",
    "ULA",
    "About",
    "Balanced",
    "CVaRDRO",
    "EVaLS",
    "Features",
    "GroupDRO",
    "InferredGroups",
    "LabelNeeds",
    "Labels",
    "LogitAdjustment",
    "Method",
    "MethodFit",
    "Tried",
    "check_attributes",
    "clusters_by_class",
    "environments",
    "halves",
    "known_method",
    "make_method",
    "setting_names",
]
