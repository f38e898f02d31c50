"""Tiny folders in exactly the layouts that the loaders read, for tests and for people who write loaders.

Every function writes real files (JPEG, PNG, CSV, JSONL, tar, Parquet) and returns what a loader must find in them. With
``quirks`` the files have what real ones have: upper-case suffixes, spaces in names, byte-order marks, Windows line
ends, quotes and line breaks in comments, -1/1 attributes, rows without a label, grey images, PNGs named .jpg.
"""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grobust.data.arrow_files import write_table
from grobust.data.civilcomments import IDENTITIES
from grobust.data.multinli import CLASS_NAMES, TEXT_FILES, UNLABELED, has_negation
from grobust.groups import Split

__all__ = [
    "Fixture",
    "write_arrow",
    "write_celeba",
    "write_civilcomments",
    "write_image_folder",
    "write_metadata_csv",
    "write_multinli",
    "write_waterbirds",
    "write_webdataset",
]

SPLITS = tuple(split.name.lower() for split in Split)
BOM = "\ufeff"
WORDS = (
    "the",
    "a",
    "lake",
    "forest",
    "bird",
    "people",
    "happy",
    "walk",
    "saw",
    "house",
    "green",
    "old",
    "river",
    "seven",
)


@dataclass(frozen=True, eq=False)
class Fixture:
    """What was written, in the order of the rows.

    Parameters
    ----------
    folder : ``data_dir`` of the loader
    labels, attributes, split : (n) int64, as the loader must number them
    items : n texts, pairs of texts, or paths of images below the folder of images
    n_attributes : values of the attribute
    """

    folder: Path
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    split: NDArray[np.int64]
    items: tuple[Any, ...]
    n_attributes: int

    def counts(self, split: Split) -> list[int]:
        """Rows per group of a split, counted one by one."""
        n_groups = (int(self.labels.max()) + 1) * self.n_attributes
        ids = [
            int(y) * self.n_attributes + int(a)
            for y, a, s in zip(self.labels, self.attributes, self.split, strict=True)
            if s == split
        ]
        return [ids.count(group) for group in range(n_groups)]


def write_waterbirds(folder: Path, *, per_group: int = 6, quirks: bool = True, seed: int = 0) -> Fixture:
    """``metadata.csv`` and images in folders of species, as in ``waterbird_complete95_forest2water2``."""
    rows = _rows(2, 2, per_group, seed)
    names = []
    for i, (y, a, _) in enumerate(rows.tolist()):
        name = f"{i % 3 + 1:03d}.Species_{i % 3}/{'Bird ' if quirks and i % 4 == 1 else 'Bird_'}{i:04d}"
        names.append(name + (".JPG" if quirks and i % 5 == 2 else ".jpg"))
        _image(folder / names[-1], y, a, i, quirks=quirks)
    header = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    lines = [[i + 1, name, y, s, a, f"/f/forest/{i:08d}.jpg"] for i, (name, (y, a, s)) in _with(names, rows)]
    _csv(folder / "metadata.csv", header, lines, quirks=quirks)
    return _fixture(folder, rows, names, 2)


def write_celeba(
    folder: Path, *, layout: str = "original", per_group: int = 6, quirks: bool = True, seed: int = 0
) -> Fixture:
    """CelebA with images in ``img_align_celeba``.

    Parameters
    ----------
    layout : ``original`` (``list_attr_celeba.txt`` with two header lines and ``list_eval_partition.txt``), ``csv``
        (the same as CSV), or ``prepared`` (``celeba_metadata.csv``)
    """
    rows = _rows(2, 2, per_group, seed)
    names = [f"{i + 1:06d}.jpg" for i in range(len(rows))]
    for i, (name, (y, a, _)) in _with(names, rows):
        _image(folder / "img_align_celeba" / name, y, a, i, quirks=quirks)
    signs = [[name, -1, 2 * y - 1, 2 * a - 1] for _, (name, (y, a, _)) in _with(names, rows)]
    partition = [[name, s] for _, (name, (_, _, s)) in _with(names, rows)]
    attributes = ["5_o_Clock_Shadow", "Blond_Hair", "Male"]
    # The partition is another file; nothing says that its rows stand in the same order.
    shuffled = [partition[i] for i in np.random.default_rng(seed).permutation(len(rows))] if quirks else partition
    if layout == "prepared":
        header = ["", "img_filename", "y", "split", "place"]
        lines = [[i, name, y, s, a] for i, (name, (y, a, s)) in _with(names, rows)]
        _csv(folder / "celeba_metadata.csv", header, lines, quirks=quirks)
    elif layout == "csv":
        _csv(folder / "list_attr_celeba.csv", ["image_id", *attributes], signs, quirks=quirks)
        _csv(folder / "list_eval_partition.csv", ["image_id", "partition"], shuffled, quirks=quirks)
    else:
        end = "\r\n" if quirks else "\n"
        table = "".join(f"{row[0]} {row[1]:2d} {row[2]:2d} {row[3]:2d}{end}" for row in signs)
        _text(folder / "list_attr_celeba.txt", f"{len(rows)}{end}{' '.join(attributes)} {end}{table}")
        _text(folder / "list_eval_partition.txt", "".join(f"{name} {s}{end}" for name, s in shuffled))
    return _fixture(folder, rows, names, 2)


def write_civilcomments(folder: Path, *, per_group: int = 6, quirks: bool = True, seed: int = 0) -> Fixture:
    """``all_data_with_identities.csv``; every comment with an identity mentions one or two of the eight."""
    rows = _rows(2, 2, per_group, seed)
    names = [*IDENTITIES, "identity_any"]
    other = ["severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit"]
    header = ["", "comment_text", "split", "toxicity", *names, *other]
    texts, lines = [], []
    of_group = [0, 0]
    for i, (y, a, s) in enumerate(rows.tolist()):
        mentioned = {of_group[y] % 8, *([of_group[y] // 8 % 8] if i % 3 == 0 else [])} if a else set()
        of_group[y] += a
        # identity_any also counts identities that are none of the eight.
        identities = [f"{0.5 + 0.5 * (i % 2)}" if k in mentioned else "0.0" for k in range(8)]
        texts.append(_comment(i, quirks=quirks))
        toxicity = ("0.5" if i % 2 else "0.83333") if y else ("0.0" if i % 2 else "0.49999")
        lines.append(
            [i, texts[-1], SPLITS[s], toxicity, *identities, "1.0" if a or i % 4 == 0 else "0.0", *["0.0"] * 6]
        )
    _csv(folder / "all_data_with_identities.csv", header, lines, quirks=quirks)
    return _fixture(folder, rows, texts, 2)


def write_multinli(folder: Path, *, per_group: int = 6, quirks: bool = True, seed: int = 0) -> Fixture:
    """``metadata_random.csv`` and the three jsonl files; its index counts their lines, unlabeled ones included."""
    rows = _rows(3, 2, per_group, seed)
    items, lines, kept = [], [], []
    for i, (y, a, _) in enumerate(rows.tolist()):
        if quirks and i % 7 == 3:
            lines.append((UNLABELED, "Nobody agreed.", "No label."))
        pair = (_comment(i, quirks=False), f"{'There was nothing, it' if a else 'It'} {_comment(i + 1, quirks=False)}")
        assert has_negation(pair[1]) == bool(a)
        kept.append(len(lines))
        lines.append((CLASS_NAMES[y], *pair))
        items.append(pair)
    cuts = [0, len(lines) // 2, len(lines) * 3 // 4, len(lines)]
    end = "\r\n" if quirks else "\n"
    for name, first, last in zip(TEXT_FILES, cuts[:-1], cuts[1:], strict=True):
        parts = [
            json.dumps({"annotator_labels": [g], "genre": "fiction", "gold_label": g, "sentence1": p, "sentence2": h})
            for g, p, h in lines[first:last]
        ]
        _text(folder / name, "".join(part + end for part in parts))
    table = [[index, y, a, s] for _, (index, (y, a, s)) in _with(kept, rows)]
    header = ["", "gold_label", "sentence2_has_negation", "split"]
    _csv(folder / "metadata_random.csv", header, table, quirks=quirks)
    return _fixture(folder, rows, items, 2)


def write_metadata_csv(
    folder: Path, *, kind: str = "image", per_group: int = 6, quirks: bool = True, seed: int = 0
) -> Fixture:
    """``metadata.csv`` with filename or text, y, a, split; names in place of numbers for a and split."""
    rows = _rows(2, 3, per_group, seed)
    items = [_comment(i, quirks=quirks) for i in range(len(rows))]
    if kind == "image":
        items = [f"images/{i:04d}{'.PNG' if quirks and i % 2 else '.png'}" for i in range(len(rows))]
        for i, (name, (y, a, _)) in _with(items, rows):
            _image(folder / name, y, a, i, quirks=quirks)
    header = ["filename" if kind == "image" else "text", "y", "a", "split"]
    lines = [[item, y, ("blue", "green", "red")[a], SPLITS[s]] for _, (item, (y, a, s)) in _with(items, rows)]
    _csv(folder / "metadata.csv", header, lines, quirks=quirks)
    return _fixture(folder, rows, items, 3)


def write_image_folder(folder: Path, *, per_group: int = 6, quirks: bool = True, seed: int = 0) -> Fixture:
    """``split/label/attribute/*.jpg``, with files beside that are no images."""
    rows = _rows(2, 2, per_group, seed)
    names = []
    for i, (y, a, s) in enumerate(rows.tolist()):
        suffix = ".JPEG" if quirks and i % 3 == 0 else ".jpg"
        names.append(f"{SPLITS[s]}/{('cat', 'dog')[y]}/{('in door', 'outside')[a]}/{i:04d}{suffix}")
    order = sorted(range(len(rows)), key=lambda i: names[i])
    for i, (name, (y, a, _)) in _with(names, rows):
        _image(folder / name, y, a, i, quirks=quirks)
    if quirks:
        _text(folder / "README.txt", "no image")
        _text(folder / "train" / "cat" / ".DS_Store", "hidden")
    return _fixture(folder, rows[order], [names[i] for i in order], 2)


def write_webdataset(
    folder: Path, *, kind: str = "image", per_group: int = 6, quirks: bool = True, seed: int = 0
) -> Fixture:
    """Shards ``train-000000.tar``, … of images or texts, with label and attribute in json members."""
    rows = _rows(2, 2, per_group, seed)
    # Files in sorted order, samples as they come: test, train, val.
    order = np.argsort([SPLITS[s] for s in rows[:, 2]], kind="stable")
    rows = rows[order]
    items = []
    folder.mkdir(parents=True, exist_ok=True)
    for split in Split:
        chosen = np.flatnonzero(rows[:, 2] == split)
        with tarfile.open(folder / f"{split.name.lower()}-000000.tar", "w") as archive:
            for i in chosen.tolist():
                y, a, _ = rows[i].tolist()
                text = _comment(i, quirks=quirks)
                content = _encoded(y, a, i, "JPEG") if kind == "image" else text.encode()
                name = f"{'part 0/' if quirks else ''}{i:06d}"
                ending = "txt" if kind != "image" else "JPG" if quirks and i % 3 == 0 else "jpg"
                _member(archive, f"{name}.{ending}", content)
                _member(archive, f"{name}.json", json.dumps({"y": y, "a": bool(a), "note": None}).encode())
                items.append((i, f"{name}.{ending}" if kind == "image" else text))
    return _fixture(folder, rows, [item for _, item in sorted(items)], 2)


def write_arrow(
    folder: Path, *, layout: str = "huggingface", kind: str = "image", per_group: int = 6, seed: int = 0
) -> Fixture:
    """Tables with columns label (named classes), attribute, and image or text.

    Parameters
    ----------
    layout : ``huggingface`` (``train/data-00000-of-00001.arrow``, … as `save_to_disk` writes them) or ``parquet``
        (``data/train-00000-of-00001.parquet``, … as the hub keeps them)
    """
    rows = _rows(2, 2, per_group, seed)
    rows = rows[np.argsort([SPLITS[s] for s in rows[:, 2]], kind="stable")]
    items: list[Any] = []
    for i, (y, a, _) in enumerate(rows.tolist()):
        items.append(_comment(i, quirks=False) if kind == "text" else {"bytes": _encoded(y, a, i, "PNG"), "path": None})
    for split in Split:
        chosen = np.flatnonzero(rows[:, 2] == split).tolist()
        name = split.name.lower()
        file = f"{name}/data-00000-of-00001.arrow" if layout == "huggingface" else f"data/{name}-00000-of-00001.parquet"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        columns = {
            kind: [items[i] for i in chosen],
            "label": rows[chosen, 0].tolist(),
            "attribute": [("sunny", "rainy")[a] for a in rows[chosen, 1].tolist()],
        }
        write_table(folder / file, columns, class_names={"label": ("sparrow", "gull")})
    # Strings are numbered in sorted order: rainy is 0.
    flipped = rows * np.array([1, -1, 1]) + np.array([0, 1, 0])
    return _fixture(folder, flipped, items, 2)


def _rows(n_classes: int, n_attributes: int, per_group: int, seed: int) -> NDArray[np.int64]:
    """(n, 3) label, attribute, split; every cell has another number of rows, and at least `per_group`."""
    cells = [(y, a, s) for s in range(3) for y in range(n_classes) for a in range(n_attributes)]
    counts = [per_group + k % (n_classes * n_attributes) + 2 * s for k, (_, _, s) in enumerate(cells)]
    rows = np.repeat(np.array(cells, dtype=np.int64), counts, axis=0)
    return np.random.default_rng(seed).permutation(rows)


def _with(names: Sequence[Any], rows: NDArray[np.int64]) -> Iterable[tuple[int, tuple[Any, list[int]]]]:
    return enumerate(zip(names, rows.tolist(), strict=True))


def _fixture(folder: Path, rows: NDArray[np.int64], items: Sequence[Any], n_attributes: int) -> Fixture:
    return Fixture(folder, rows[:, 0], rows[:, 1], rows[:, 2], tuple(items), n_attributes)


def _image(path: Path, label: int, attribute: int, number: int, *, quirks: bool) -> None:
    """An image by its suffix; with quirks some are grey, and some named .jpg are PNGs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    form = "PNG" if suffix == ".png" or (quirks and number % 6 == 4) else "JPEG"
    path.write_bytes(_encoded(label, attribute, number, form, grey=quirks and number % 9 == 8))


def _encoded(label: int, attribute: int, number: int, form: str, *, grey: bool = False) -> bytes:
    """A noisy image whose brightness says the label and whose tint says the attribute."""
    noise = np.random.default_rng(number).integers(0, 60, size=(20, 24, 3))
    base = np.array([60 + 90 * label, 60 + 60 * (attribute == 0), 60 + 60 * (attribute == 1)])
    image = Image.fromarray((noise + base).astype(np.uint8))
    out = io.BytesIO()
    (image.convert("L") if grey else image).save(out, format=form)
    return out.getvalue()


def _comment(number: int, *, quirks: bool) -> str:
    rng = np.random.default_rng(number + 1000)
    text = f"{' '.join(rng.choice(WORDS, size=8))} {number}."
    if quirks:
        text = (text, f'He said: "{text}"', f"{text}\nSecond line,\nthird", f"naïve — {text} 👍", "", "NA")[number % 6]
    return text


def _csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]], *, quirks: bool) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n" if quirks else "\n")
    writer.writerows([header, *lines])
    _text(path, BOM * quirks + out.getvalue())


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
