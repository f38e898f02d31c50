"""MultiNLI (Williams et al. 2018): does a premise entail a hypothesis; a negation word in the hypothesis.

``metadata_random.csv`` of the group_DRO release (index, gold_label, sentence2_has_negation, split) numbers the lines of
the three original files in order, lines without a gold label ("-") included. The features that are distributed with it
are pickles of a Python class and are never loaded; the texts are tokenized instead.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.data.benchmark import benchmark_file, complete_groups
from grobust.data.csv_table import CsvTable, find_file, read_csv, read_header
from grobust.data.places import Place
from grobust.data.tables import TextPairs
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["NEGATIONS", "has_negation", "load_multinli"]

TABLE = "metadata_random.csv"
COLUMNS = ("gold_label", "sentence2_has_negation", "split")
TEXT_FILES = ("multinli_1.0_train.jsonl", "multinli_1.0_dev_matched.jsonl", "multinli_1.0_dev_mismatched.jsonl")
SUBFOLDERS = ("data", "multinli_1.0", "multinli", "multinli/data", "multinli/multinli_1.0", "glue_data/MNLI")
CLASS_NAMES = ("contradiction", "entailment", "neutral")
ATTRIBUTE_NAMES = ("no negation", "negation")
UNLABELED = "-"
GOLD = {name: code for code, name in enumerate(CLASS_NAMES)} | {UNLABELED: -1}
NEGATIONS = frozenset({"nobody", "no", "never", "nothing"})
_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def has_negation(hypothesis: str) -> bool:
    """The rule behind the column: a word of `NEGATIONS`, punctuation removed, lower case, split at spaces."""
    return not NEGATIONS.isdisjoint(hypothesis.translate(_PUNCTUATION).lower().split(" "))


def load_multinli(folder: Place) -> TextPairs:
    """Labels, negation and splits of the table; premise and hypothesis of the original files.

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected; also where the texts' labels contradict the table.
    """
    path = benchmark_file(folder, [TABLE], SUBFOLDERS, "MultiNLI")
    index = read_header(path)[0]
    if index in COLUMNS:
        raise DataError(f"{path}: the first column is '{index}'; expected row numbers of the jsonl files there.")
    table = read_csv(path, [index, *COLUMNS])
    labels, _ = table.codes("gold_label", CLASS_NAMES)
    negation, _ = table.codes("sentence2_has_negation", ATTRIBUTE_NAMES)
    groups = Groups.from_arrays(labels, negation, class_names=CLASS_NAMES, attribute_names=ATTRIBUTE_NAMES)
    complete_groups(groups, path, "'gold_label' and 'sentence2_has_negation'")
    numbers = table.numbers(index)
    gold, premises, hypotheses = _texts(folder, path)
    outside = (numbers < 0) | (numbers >= gold.size) | (numbers != np.floor(numbers))
    table.refuse_first(outside, index, f"a line of the jsonl files, 0 to {gold.size - 1}")
    lines = numbers.astype(np.int64)
    table.refuse_first(gold[lines] < 0, index, "a line with a gold label (the jsonl has '-' there)")
    _same_labels(table, labels, gold[lines])
    return TextPairs(
        name="multinli",
        groups=groups,
        split=table.splits("split")[0],
        sample_ids=tuple(f"line-{line}" for line in lines.tolist()),
        first=tuple(premises[line] for line in lines.tolist()),
        second=tuple(hypotheses[line] for line in lines.tolist()),
    )


def _same_labels(table: CsvTable, labels: NDArray[Any], gold: NDArray[Any]) -> None:
    """Files in another order, or with lines dropped, would give every text a wrong label."""
    wrong = labels != gold
    if wrong.any():
        row = int(np.argmax(wrong))
        expected = f"'{CLASS_NAMES[int(gold[row])]}', the label of that line in the jsonl files"
        raise table.error(
            row, "gold_label", expected, f" ({int(wrong.sum())} such row(s).) The texts are not those of this table."
        )


def _texts(folder: Place, table: Place) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Label (−1 without one), premise and hypothesis of every line of the three files."""
    gold: list[int] = []
    premises: list[str] = []
    hypotheses: list[str] = []
    for name in TEXT_FILES:
        path = find_file(table.parent, [name], SUBFOLDERS, "MultiNLI") or find_file(
            folder, [name], SUBFOLDERS, "MultiNLI"
        )
        if path is None:
            raise _no_texts(folder, table, name)
        for row, line in _lines(path):
            label, premise, hypothesis = _parsed(path, row, line)
            gold.append(GOLD[label])
            premises.append(premise)
            hypotheses.append(hypothesis)
    return np.array(gold, dtype=np.int64), premises, hypotheses


def _parsed(path: Place, row: int, line: str) -> tuple[str, str, str]:
    """Gold label, premise and hypothesis of a line."""
    try:
        item = json.loads(line)
        label, premise, hypothesis = item["gold_label"], item["sentence1"], item["sentence2"]
        usable = isinstance(premise, str) and isinstance(hypothesis, str)
    except (ValueError, KeyError, TypeError, RecursionError):
        usable = False
    if not usable:
        raise DataError(
            f"{path}, row {row}: {line[:60]!r}; expected a JSON object with gold_label, sentence1, sentence2."
        )
    if not isinstance(label, str) or label not in GOLD:
        raise DataError(f"{path}, row {row}, column 'gold_label': {label!r}; expected one of {', '.join(GOLD)}.")
    return label, premise, hypothesis


def _lines(path: Place) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for row, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if row == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, row {row}, column {error.start}: not UTF-8 text ({error.reason}).") from None
            if text:
                yield row, text


def _no_texts(folder: Place, table: Place, name: str) -> DataError:
    places = [place for place in {folder, table.parent} if isinstance(place, Path)]
    pickles = sorted(path for place in places for path in place.rglob("cached_*mnli*"))
    about = (
        f"\n{pickles[0]} is a pickle of a Python class, which could run code when loaded; grobust never loads it."
        if pickles
        else ""
    )
    return DataError(
        f"{table} is there, but the texts are not: no {name} beside it.{about}\n"
        f"Put the original files of MultiNLI 1.0 into {table.parent}: {', '.join(TEXT_FILES)}."
    )
