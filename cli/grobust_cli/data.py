"""``grobust data``: commands about data sets on disk, each in a file of its own or here."""

import typer

from grobust_cli import fetch

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.callback()
def data() -> None:
    """Data sets on disk: check them against what was published, and see their groups."""


app.command("fetch")(fetch.fetch)
