"""Experiments: one config and one ``run_…`` function per command; reports and append-only records come out."""
