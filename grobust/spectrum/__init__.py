"""Covariance spectra per group and class, spectral norm ratios with their nulls, and what else spectra say."""

from grobust.spectrum.correspondence import Correspondence, RatioAndGap, correspondence
from grobust.spectrum.geometry import GroupGeometry, group_geometry
from grobust.spectrum.inference import RatioInference, Reading, inference_bytes, ratio_inference
from grobust.spectrum.ratios import SMALL_GROUP_NOTE, Against, NormRatio, norm_ratios
from grobust.spectrum.spectra import Route, Spectra, class_spectra, group_spectra, stream_spectra
from grobust.spectrum.summary import READINGS, Diagnostic, diagnose

__all__ = [
    "READINGS",
    "SMALL_GROUP_NOTE",
    "Against",
    "Correspondence",
    "Diagnostic",
    "GroupGeometry",
    "NormRatio",
    "RatioAndGap",
    "RatioInference",
    "Reading",
    "Route",
    "Spectra",
    "class_spectra",
    "correspondence",
    "diagnose",
    "group_geometry",
    "group_spectra",
    "inference_bytes",
    "norm_ratios",
    "ratio_inference",
    "stream_spectra",
]
