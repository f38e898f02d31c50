"""Saved heads that are to be used on a store's features: whether they fit, and the method that made each."""

from pathlib import Path

from grobust.errors import StoreMismatchError
from grobust.features.store import FeatureStore
from grobust.heads import HeadInfo, Heads, load_heads
from grobust.settings import BalanceBy, BalanceMethod

__all__ = ["fitting_heads", "method_of_head"]


def fitting_heads(path: Path, store: FeatureStore) -> Heads:
    """Heads that were trained on features and classes like the store's.

    Raises
    ------
    StoreMismatchError
        If they were not; the message shows the difference.
    DataError
        If the file is no file of heads.
    """
    heads = load_heads(path)
    difference = heads.difference(store.provenance, store.dim)
    if heads.class_names != store.groups.class_names:
        difference["classes"] = (", ".join(heads.class_names), ", ".join(store.groups.class_names))
    if difference:
        lines = "\n".join(f"  {name}: heads {a}, store {b}" for name, (a, b) in difference.items())
        raise StoreMismatchError(
            f"{path} was trained on features of another kind than {store.path} holds.\n{lines}\n"
            "Train heads on this store with `grobust probe --save`."
        )
    return heads


def method_of_head(info: HeadInfo) -> str:
    """Method, ratio and what is balanced, as in tables of records; a head without method goes by its name."""
    if info.method is None:
        return info.name
    name = info.method
    if name == BalanceMethod.MIXTURE and info.ratio is not None:
        name += f" {info.ratio:g}:1"
    return f"{name} by group" if info.by == BalanceBy.GROUP and name != BalanceMethod.NONE else name
