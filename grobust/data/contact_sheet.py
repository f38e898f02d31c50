"""A picture per group: some images of each in a row, under the group's name."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from grobust.data.dataset import GroupedDataset
from grobust.errors import DataError

__all__ = ["write_contact_sheet"]

TILE, GAP, CAPTION = 112, 6, 18
BACKGROUND, INK = (255, 255, 255), (20, 20, 20)


def write_contact_sheet(
    dataset: GroupedDataset, rows: Sequence[tuple[str, Sequence[int]]], captions: Sequence[str], path: Path
) -> Path:
    """Draw a PNG of a line per group. The file is complete or absent.

    Parameters
    ----------
    rows : name and row numbers of every group
    captions : a line of text per group, over its images
    path : ending in .png; its folder is made

    Raises
    ------
    DataError
        If an image cannot be read, or the path ends in something else.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: a contact sheet is a PNG; give a name that ends in .png.")
    widest = max((len(chosen) for _, chosen in rows), default=0)
    font = ImageFont.load_default()
    text_width = max((int(font.getlength(_plain(caption))) for caption in captions), default=0)
    width = max(widest * (TILE + GAP), text_width + GAP) + GAP
    height = len(rows) * (CAPTION + TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for line, ((_, chosen), caption) in enumerate(zip(rows, captions, strict=True)):
        top = GAP + line * (CAPTION + TILE + GAP)
        draw.text((GAP, top), _plain(caption), fill=INK, font=font)
        for column, row in enumerate(chosen):
            image = ImageOps.contain(dataset[row], (TILE, TILE))
            sheet.paste(image, (GAP + column * (TILE + GAP), top + CAPTION))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        sheet.save(unfinished, format="PNG")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _plain(text: str) -> str:
    """What Pillow's own font can draw in every build."""
    return text.encode("latin-1", "replace").decode("latin-1")
