"""Image folders: ``split/label/attribute/*.jpg``."""

import os
from pathlib import Path

import numpy as np

from grobust.data.csv_table import SPLIT_NAMES
from grobust.data.places import CloudPath, Place
from grobust.data.tables import ImageFiles
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["IMAGE_SUFFIXES", "load_image_folder"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def load_image_folder(folder: Place, *, needs_split: bool = True) -> ImageFiles:
    """Images by the folders they lie in; labels and attributes are named after these and numbered in sorted order.

    Parameters
    ----------
    needs_split : whether the folders of splits must be there; else ``label/attribute/*.jpg`` will do, all training

    Raises
    ------
    DataError
        If there are no images, one lies elsewhere, or a split has an unknown name.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {kind}. Expected a folder split/label/attribute with images.")
    found = sorted(_images(folder))
    if not found:
        raise DataError(
            f"{folder} has no images in split/label/attribute/. Looked for {', '.join(sorted(IMAGE_SUFFIXES))} in it."
        )
    depth = 4 if needs_split or found[0].count("/") == 3 else 3
    parts = [name.split("/") for name in found]
    for name, path in zip(found, parts, strict=True):
        if len(path) != depth:
            layout = "split/label/attribute" if depth == 4 else "label/attribute"
            raise DataError(f"{folder / name}: an image outside {layout}/. Expected every image in such a folder.")
        if depth == 4 and path[0].lower() not in SPLIT_NAMES:
            raise DataError(f"{folder / path[0]}: {path[0]!r} is no split; expected folders train, val and test.")
    classes, labels = np.unique([path[-3] for path in parts], return_inverse=True)
    attributes, codes = np.unique([path[-2] for path in parts], return_inverse=True)
    return ImageFiles(
        name=f"image_folder:{folder.absolute().name}",
        groups=Groups.from_arrays(
            labels, codes, class_names=tuple(classes.tolist()), attribute_names=tuple(attributes.tolist())
        ),
        split=np.array([SPLIT_NAMES[path[0].lower()] if depth == 4 else 0 for path in parts], dtype=np.int8),
        sample_ids=tuple(found),
        root=folder,
    )


def _images(folder: Place) -> list[str]:
    """Paths of images below the folder, `/` between folders; hidden files and folders and linked folders apart."""
    if isinstance(folder, CloudPath):
        names = [name.split("/") for name in folder.names_below()]
        shown = ["/".join(parts) for parts in names if not any(part.startswith(".") for part in parts)]
        return [name for name in shown if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(place).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        found += [
            prefix + name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        ]
    return found
