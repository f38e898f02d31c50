"""``grobust recipes``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from grobust_cli._options import Json
from grobust_cli._output import note, show_json, show_table

if TYPE_CHECKING:
    from grobust.finetune.recipes import BackboneSize, Recipe

__all__ = ["recipes"]

SOURCES = (
    "(paper) LaBonte et al. 2024, (code) their official code, (ours) our choice where they are silent; every value can "
    "be given otherwise"
)


def recipes(
    dataset: Annotated[
        str | None, typer.Argument(help="Data set, such as `waterbirds`; all without it.", show_default=False)
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Of one backbone: a spec, or a name such as `convnextv2-nano`.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Finetuning recipes of data sets and backbone families, in full, each value with its source.

    Examples:

    - `grobust recipes`

    - `grobust recipes celeba --json`

    - `grobust recipes waterbirds --backbone convnextv2-nano`
    """
    from grobust.errors import ConfigError
    from grobust.finetune.recipes import all_recipes, backbone_sizes, recipe_for

    if backbone is not None and dataset is None:
        raise ConfigError("--backbone needs a data set: grobust recipes waterbirds --backbone convnextv2-nano.")
    if backbone is not None and dataset is not None:
        found: tuple[Recipe, ...] = (recipe_for(dataset, backbone),)
        sizes = tuple(size for size in backbone_sizes() if found[0].backbone in size.specs)
    else:
        found = all_recipes(dataset)
        sizes = tuple(size for size in backbone_sizes() if any(recipe.family == size.family for recipe in found))
    if json:
        show_json({"recipes": [recipe.as_dict() for recipe in found], "backbones": [_size(size) for size in sizes]})
        return
    for name in dict.fromkeys(recipe.dataset for recipe in found):
        _show([recipe for recipe in found if recipe.dataset == name])
    if sizes:
        columns = ["name", "weights", "family", "parameters (2 classes)"]
        rows = [[size.name, ", ".join(size.specs), size.title, f"{size.parameters:,}"] for size in sizes]
        show_table("backbones of the paper", columns, rows, text_columns=3)
    note(SOURCES)


def _show(recipes: "list[Recipe]") -> None:
    """One table: a row for each value, a column for each family."""
    first = recipes[0]
    parts = [{**recipe.settings, **recipe.inputs, **recipe.facts} for recipe in recipes]
    names = dict.fromkeys(name for part in parts for name in part)
    rows = [[name, *(_cell(part.get(name)) for part in parts)] for name in names]
    columns = ["setting", *(recipe.backbone or recipe.family for recipe in recipes)]
    show_table(f"{first.dataset}, {first.kind}s", columns, rows)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    content = value.value
    text = ", ".join(f"{item:g}" for item in content) if isinstance(content, list | tuple) else str(content)
    return f"{text} ({value.source})"


def _size(size: "BackboneSize") -> dict[str, Any]:
    return {
        "name": size.name, "family": size.family, "title": size.title, "kind": size.kind, "size": size.size,
        "parameters": size.parameters, "specs": list(size.specs),
    }  # fmt: skip
