"""Who may import whom: one direction, and one door for each heavy library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up: a module imports from earlier rows and from its own package.
ROWS = (
    ("errors", "typing", "ledger"),
    ("settings", "arrays", "threads", "interrupts", "ray_cluster", "child_processes", "kept_memory", "matrix_tiles",
     "features.widen", "features._read_ahead", "features._sample_ids"),
    ("device", "groups"),
    ("features._schema", "features._hdf5", "features._view", "features.store", "features._assembly", "features.parts",
     "features.cache",
     "metrics", "balancing", "held_out", "spectrum"),
    ("probe",),
    ("selection",),
    ("comparison",),
    ("classifier",),
    ("diagnosis",),
    ("methods",),
    ("heads",),
    ("data", "models"),
    ("features._batches", "features.profile", "features._plan", "features._encode", "features._write", "features._run",
     "features.batch_size", "features.extract", "importing"),
    ("features.parallel",),
    ("finetune",),
    ("report",),
    ("experiments",),
)  # fmt: skip
DOORS = {
    "h5py": {"features._hdf5", "importing.hdf5_files"},
    "cupy": {"arrays", "device._cuda"},
    "cupy_backends": {"device._cuda"},
    "cupyx": {"device._cuda"},
    "torch": {
        "data",
        "models",
        "features._batches",
        "features._encode",
        "features.batch_size",
        "finetune",
        "experiments.extract",
        "importing.tensor_files",
    },
    "accelerate": {"finetune"},
    "llvmlite": {"matrix_tiles", "probe._numba_products", "probe._numba_rows"},
    "numba": {
        "matrix_tiles",
        "probe._numba",
        "probe._numba_l1",
        "probe._numba_passes",
        "probe._numba_products",
        "probe._numba_rows",
        "probe._numba_solver",
        "probe._tile_passes",
    },
    "sklearn": {"classifier", "methods.pseudo_groups"},
    "typer": set(),
    "matplotlib": {"report"},
    "jinja2": {"report.page"},
    "markupsafe": {"report.page"},
    "ray": {"ray_cluster", "features.parallel.ray_crew"},
    "pyarrow": {"data.arrow_files"},
    "fsspec": {"data.places"},
}
FILES = sorted((ROOT / "grobust").rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "grobust").with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def row_of(module: str) -> int:
    for i, row in enumerate(ROWS):
        if any(module == name or module.startswith(name + ".") for name in row):
            return i
    raise AssertionError(f"{module} stands in no row; give it a place in ROWS")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module in ("__init__", "features", "data", "models"):
        return
    for name in imports_of(path):
        if not name.startswith("grobust."):
            continue
        other = name.removeprefix("grobust.")
        same_package = other.split(".")[0] == module.split(".")[0]
        siblings = same_package and row_of(other) == row_of(module)
        allowed = row_of(other) < row_of(module) or siblings or (module, other) in EXCEPTIONS
        assert allowed, f"{module} imports {other}"


# models and data share a row; models needs the kinds of items and the finder of packaged files.
EXCEPTIONS = {
    ("models.backbone", "data.dataset"),
    ("models.packaged", "data.packaged_files"),
    ("features.parts", "features.store"),
    ("features.cache", "features.store"),
}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_libraries_have_one_door(path: Path) -> None:
    module = module_of(path)
    for name in imports_of(path):
        library = name.split(".")[0]
        if library in DOORS:
            doors = DOORS[library]
            assert any(module == d or module.startswith(d + ".") for d in doors), f"{module} imports {library}"


@pytest.mark.parametrize("path", sorted((ROOT / "cli").rglob("*.py")), ids=lambda p: p.stem)
def test_the_command_line_imports_no_private_module(path: Path) -> None:
    for name in imports_of(path):
        parts = name.split(".")
        assert parts[0] != "grobust" or not any(part.startswith("_") for part in parts), f"{path} imports {name}"
