"""``grobust cache``: the stores of a folder."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust_cli._options import Json, byte_size, duration
from grobust_cli._output import note, progress_bar, show_json, show_table

if TYPE_CHECKING:
    from grobust.experiments.cache import CacheEntry

__all__ = ["app", "gc", "info", "ls", "verify"]

DAMAGED = 2

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Folder = Annotated[
    Path | None,
    typer.Argument(help="Folder with stores. Default: $GROBUST_CACHE, else ~/.cache/grobust.", show_default=False),
]
UsedIn = Annotated[
    list[Path] | None,
    typer.Option(
        "--records",
        help="records.jsonl, or a folder with one, in which uses are looked up. Repeatable.",
        show_default=False,
    ),
]


@app.callback()
def cache() -> None:
    """Feature stores of a folder: what made each, who used it, whether it is sound, and which may go."""


@app.command("ls")
def ls(folder: Folder = None, records: UsedIn = None, json: Json = False) -> None:
    """List the stores of a folder: what made each, its size, its age, and how many recorded runs used it.

    Only headers are read. Unfinished stores are listed, too; links are not followed.

    Examples:

    - `grobust cache ls`

    - `grobust cache ls stores --records records.jsonl --json`
    """
    from grobust.experiments.cache import CacheConfig, run_cache_list

    report = run_cache_list(CacheConfig(folder, tuple(records or ())))
    if json:
        show_json(report.as_dict())
        return
    _show(str(report.folder), report.folder, report.entries, counted=bool(records))
    note(f"{len(report.entries)} store(s), {_size(report.size)}")


@app.command("info")
def info(
    store: Annotated[str, typer.Argument(help="A store, or how the name of one in the folder begins.")],
    folder: Annotated[Path | None, typer.Option(help="Folder with stores. Default: the cache.")] = None,
    records: UsedIn = None,
    json: Json = False,
) -> None:
    """What made a store, and which recorded runs used it.

    Example: `grobust cache info digits-packaged --records records.jsonl`
    """
    from grobust.experiments.cache import CacheConfig, run_cache_info

    content = run_cache_info(CacheConfig(folder, tuple(records or ())), store).as_dict()
    if json:
        show_json(content)
        return
    made, uses = content.pop("made_by"), content.pop("uses")
    facts = [[k, _age(v) if k.endswith("_days") else str(v)] for k, v in content.items() if v not in (None, "")]
    show_table(content["path"], ["what", "value"], facts, text_columns=2)
    rows = [[k, v if isinstance(v, str) else json_module.dumps(v)] for k, v in made.items()]
    show_table("made by", ["setting", "value"], rows, text_columns=2)
    if records:
        found = [[use["command"], use["time"], "–" if use["seed"] is None else str(use["seed"])] for use in uses]
        show_table("used by", ["command", "finished", "seed"], found, text_columns=2)


@app.command("verify")
def verify(folder: Folder = None, json: Json = False) -> None:
    """Read every byte of every finished store of a folder and check it.

    All are read, whatever is found; exit code 0 if all are sound, 2 if one is damaged.

    Example: `grobust cache verify`
    """
    from grobust.experiments.cache import CacheConfig, run_cache_verify

    with progress_bar("verify") as advance:
        report = run_cache_verify(CacheConfig(folder), on_progress=lambda name, done, total: advance(done, total, name))
    if json:
        show_json(report.as_dict())
    else:
        rows = []
        for entry in report.entries:
            content = entry.as_dict()
            found = content["problem"] or ("as written" if content["state"] == "finished" else "not finished, not read")
            rows.append([_name(entry, report.folder), found, _size(content["bytes"])])
        show_table(str(report.folder), ["store", "found", "size"], rows, text_columns=2)
    if not report.sound:
        raise typer.Exit(DAMAGED)


@app.command("gc")
def gc(
    folder: Folder = None,
    older_than: Annotated[
        str | None,
        typer.Option(help="Neither written nor, by the records named, used for so long: 30d, 12h, 2w.", metavar="AGE"),
    ] = None,
    unused_by: Annotated[
        list[Path] | None,
        typer.Option(help="No run of this records.jsonl (or folder with one) used it. Repeatable.", show_default=False),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            help="Only until the folder's stores take this much, longest unused first: 100GB.", metavar="SIZE"
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Store, or pattern of names, that stays: 'waterbirds-*'. Repeatable.", show_default=False),
    ] = None,
    records: UsedIn = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
    json: Json = False,
) -> None:
    """Say which stores may go, and remove them with `--delete`.

    A store may go if every condition given holds. What is being written stays, and so does an unfinished store of the
    last hour, all that is not a grobust store, and whatever a link leads to.

    Examples:

    - `grobust cache gc --older-than 30d --unused-by records.jsonl`

    - `grobust cache gc stores --max-size 100GB --keep 'waterbirds-*' --delete`
    """
    from grobust.experiments.cache import CollectConfig, run_cache_collect

    report = run_cache_collect(
        CollectConfig(
            folder=folder,
            records=tuple(records or ()),
            older_than=None if older_than is None else duration(older_than, "--older-than"),
            unused_by=tuple(unused_by or ()),
            keep=tuple(keep or ()),
            max_bytes=None if max_size is None else byte_size(max_size, "--max-size"),
            delete=delete,
        )
    )
    if json:
        show_json(report.as_dict())
        return
    title = "removed" if report.deleted else "would be removed"
    _show(title, report.folder, report.chosen, counted=bool(records or unused_by))
    note(*(f"{path} stays: {reason}" for path, reason in report.stayed))
    note(f"{title}: {_size(report.freed)} of {_size(report.bytes_before)}")
    if report.chosen and not report.deleted:
        note("nothing was removed; say --delete to remove them")


def _show(title: str, folder: Path, entries: "tuple[CacheEntry, ...]", *, counted: bool) -> None:
    rows = []
    for entry in entries:
        content = entry.as_dict()
        made = content["made_by"]
        rows.append([
            _name(entry, folder), content["state"], made.get("dataset", "–"), made.get("backbone", "–"),
            "–" if content["dim"] is None else f"{'…' if content['n'] is None else content['n']} × {content['dim']}",
            content["dtype"], _size(content["bytes"]), _age(content["age_days"]),
            str(len(content["uses"])) if counted else "–",
        ])  # fmt: skip
    columns = ["store", "state", "data set", "backbone", "features", "dtype", "size", "age", "uses"]
    show_table(title, columns, rows, text_columns=4)


def _name(entry: "CacheEntry", folder: Path) -> str:
    return str(entry.stored.path.relative_to(folder))


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if unit != "B" else f"{count} B"


def _age(days: float) -> str:
    if days >= 1:
        return f"{days:.0f} d"
    return f"{24 * days:.0f} h" if days >= 1 / 24 else f"{1440 * days:.0f} min"
