"""Choices of tables, figures and the page; importing this loads nothing."""

from enum import StrEnum

__all__ = ["BestIn", "PlotKind", "Projection", "TableFormat"]


class BestIn(StrEnum):
    """Where one cell of a table may be best: in each column, in each row, in the whole table, or nowhere."""

    COLUMN = "column"
    ROW = "row"
    TABLE = "table"
    NONE = "none"


class TableFormat(StrEnum):
    """How a table is printed."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


class PlotKind(StrEnum):
    """Figures that records can give; the names are those of the paper's figures where it has one."""

    WGA = "wga"
    GROUPS = "groups"
    COLLAPSE = "collapse"
    MIXTURE = "mixture"
    MIXTURE_ABLATION = "mixture-ablation"
    SCALING = "scaling"
    SELECTION = "selection"
    EIGENVALUES = "eigenvalues"
    RHO = "rho"
    RHO_NULL = "rho-null"
    RHO_OVER_TRAINING = "rho-over-training"
    RHO_GAP = "rho-gap"
    COMPOSITION = "composition"


class Projection(StrEnum):
    """How features become two numbers: principal components, or UMAP (extra ``report``)."""

    PCA = "pca"
    UMAP = "umap"
