"""The ``grobust`` command: adds the commands, ``--version``, and turns errors into messages and exit codes."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from grobust import __version__
from grobust.errors import GrobustError
from grobust_cli import (
    cache,
    compare,
    data,
    demo,
    diagnose,
    extract,
    finetune,
    import_cache,
    info,
    methods,
    plot,
    predict,
    probe,
    recipes,
    report,
    reproduce,
    select,
    spectrum,
    sweep,
    table,
)
from grobust_cli._output import fail

__all__ = ["app", "main"]

USER_ERROR = 2
INTERRUPTED = 130


class _Group(TyperGroup):
    """Turns what a user can mend into a message on stderr and exit code 2; a traceback is left to real faults."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GrobustError as error:
            fail(type(error).__name__, str(error), getattr(error, "__notes__", ()))
            raise typer.Exit(USER_ERROR) from None
        except OSError as error:
            fail(type(error).__name__, str(error))
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            fail("Interrupted", "What was finished is kept; run the same command again to continue.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Find out whether a classifier leans on a spurious attribute, and what to do about it.\n\n"
        "`grobust demo` shows everything on real data in a few minutes. Your own data: `extract` features once, then "
        "`probe` and `spectrum` them as often as you like."
    ),
)
app.command("demo")(demo.demo)
app.command("extract")(extract.extract)
app.command("import")(import_cache.import_cache)
app.command("finetune")(finetune.finetune)
app.command("probe")(probe.probe)
app.command("methods")(methods.methods)
app.command("predict")(predict.predict)
app.command("spectrum")(spectrum.spectrum)
app.command("select")(select.select)
app.command("compare")(compare.compare)
app.command("diagnose")(diagnose.diagnose)
app.command("sweep")(sweep.sweep)
app.command("reproduce")(reproduce.reproduce)
app.command("recipes")(recipes.recipes)
app.command("table")(table.table)
app.command("plot")(plot.plot)
app.command("report")(report.report)
app.command("info")(info.info)
app.command("verify")(info.verify)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"grobust {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Entry point of the console script."""
    app()
