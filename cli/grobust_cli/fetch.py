"""``grobust data fetch``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from grobust.errors import ConfigError
from grobust_cli._options import Json
from grobust_cli._output import note, progress_bar, show_json, show_table

__all__ = ["fetch"]

MB = 1_000_000


def fetch(
    name: Annotated[str | None, typer.Argument(help="Data set; --list shows which.", show_default=False)] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder that will hold it: new or empty.", show_default=False)
    ] = None,
    mirrors: Annotated[
        Path | None,
        typer.Option(help="TOML file with your own list of mirrors, in place of the built-in one.", show_default=False),
    ] = None,
    attempts: Annotated[int, typer.Option(help="Attempts at one address without a new byte between them.")] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds without a byte before a connection is given up.")] = 30.0,
    backoff: Annotated[float, typer.Option(help="Seconds before the second attempt; doubled each time.")] = 1.0,
    list_: Annotated[bool, typer.Option("--list", help="Show the data sets, their terms and addresses.")] = False,
    json: Json = False,
) -> None:
    """Download a data set into a folder: only when asked, never by another command.

    An interrupted download continues where it was when the same command is run again. Archives are checked member by
    member before anything of them is used. The folder is complete or absent, and records what came from where.

    Examples:

    - `grobust data fetch --list`

    - `grobust data fetch waterbirds --data-dir data/waterbirds`

    - `grobust data fetch waterbirds --data-dir data/waterbirds --mirrors our-server.toml --json`
    """
    from grobust.experiments.fetch import FetchConfig, find_source, run_fetch

    if list_:
        _show_list(mirrors, json)
        return
    if name is None or data_dir is None:
        raise ConfigError("Say which data set and where: `grobust data fetch NAME --data-dir DIR`; --list shows them.")
    config = FetchConfig(
        name=name, data_dir=data_dir, mirrors=mirrors, attempts=attempts, timeout_seconds=timeout,
        backoff_seconds=backoff,
    )  # fmt: skip
    source = find_source(name, mirrors)
    note(source.title, f"terms of use: {source.license}", f"homepage: {source.homepage}")
    with progress_bar(f"fetch {name}") as advance:
        begun: dict[str, tuple[float, int]] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            started, first = begun.setdefault(what, (time.monotonic(), done))
            rate = (done - first) / MB / max(time.monotonic() - started, 1e-3)
            advance(done // MB, max(total or done, done) // MB, f"MB, {rate:.1f} MB/s, {what}")

        report = run_fetch(config, on_progress=progress)
    if json:
        show_json(report.as_dict())
        return
    result = report.result
    note(*result.notes)
    if result.reused:
        note(f"{result.folder} holds {name} already, from an earlier fetch: nothing to do")
    else:
        note(f"{result.folder}: {name} is complete")
    show_table(
        f"{name} in {result.folder}",
        ["file", "from", "SHA-256", "verified", "bytes"],
        [
            [f.name, f.url or "placed by hand", f.sha256, "yes" if f.verified else "no", str(f.bytes)]
            for f in result.files
        ],
        text_columns=4,
    )


def _show_list(mirrors: Path | None, json: bool) -> None:
    from dataclasses import asdict

    from grobust.data.fetch.sources import load_sources

    sources = load_sources(mirrors)
    if json:
        show_json([asdict(source) for source in sources.values()])
        return
    rows = []
    for source in sources.values():
        for file in source.files:
            size = f"{file.expected_bytes / MB:.0f}"
            rows += [[source.name, file.name, url, "yes" if file.sha256 else "no", size] for url in file.mirrors]
    show_table("data sets to fetch", ["data set", "file", "address", "SHA-256 known", "about MB"], rows, text_columns=4)
    note(*(f"{source.name}: {source.license}" for source in sources.values()))
