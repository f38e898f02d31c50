"""Sweeps: a declared grid of extractions, finetunings, probes and spectra, planned first, each step done once."""
