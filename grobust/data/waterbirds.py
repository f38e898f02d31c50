"""Waterbirds (Sagawa et al. 2020): birds on land and water backgrounds, labels as distributed (with the known errors).

``waterbird_complete95_forest2water2/metadata.csv`` with columns img_id, img_filename, y, split, place, place_filename;
the images lie below the same folder.
"""

from grobust.data.benchmark import benchmark_file, complete_groups
from grobust.data.csv_table import paths_inside, read_csv
from grobust.data.places import Place
from grobust.data.tables import ImageFiles
from grobust.groups import Groups

__all__ = ["load_waterbirds"]

CLASS_NAMES = ("landbird", "waterbird")
ATTRIBUTE_NAMES = ("land", "water")
SUBFOLDERS = (
    "waterbird_complete95_forest2water2",
    "waterbirds_v1.0",
    "waterbirds",
    "waterbirds/waterbird_complete95_forest2water2",
    "cub/data/waterbird_complete95_forest2water2",
)


def load_waterbirds(folder: Place) -> ImageFiles:
    """Labels y (landbird, waterbird), attributes place (land, water), splits 0/1/2; no image is opened.

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected.
    """
    path = benchmark_file(folder, ["metadata.csv"], SUBFOLDERS, "Waterbirds")
    table = read_csv(path, ["img_filename", "y", "split", "place"])
    labels, _ = table.codes("y", CLASS_NAMES)
    places, _ = table.codes("place", ATTRIBUTE_NAMES)
    groups = Groups.from_arrays(labels, places, class_names=CLASS_NAMES, attribute_names=ATTRIBUTE_NAMES)
    return ImageFiles(
        name="waterbirds",
        groups=complete_groups(groups, path, "'y' and 'place'"),
        split=table.splits("split")[0],
        sample_ids=paths_inside(table, "img_filename"),
        root=path.parent,
    )
