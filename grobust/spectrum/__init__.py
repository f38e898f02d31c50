"""Covariance spectra per group and class, and spectral norm ratios."""

from grobust.spectrum.ratios import SMALL_GROUP_NOTE, NormRatio, norm_ratios
from grobust.spectrum.spectra import Spectra, class_spectra, group_spectra, stream_spectra

__all__ = [
    "SMALL_GROUP_NOTE",
    "NormRatio",
    "Spectra",
    "class_spectra",
    "group_spectra",
    "norm_ratios",
    "stream_spectra",
]
