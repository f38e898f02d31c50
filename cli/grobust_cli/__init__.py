"""Command line of grobust."""
