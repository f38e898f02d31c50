"""The table of ``grobust extract --profile``."""

from typing import TYPE_CHECKING

from grobust_cli._output import note, number, percent, show_table

if TYPE_CHECKING:
    from grobust.features.profile import ExtractProfile

__all__ = ["show_profile"]


def show_profile(profile: "ExtractProfile") -> None:
    """Seconds, share of the run and rates of every stage; then what sets the pace, and what to change."""
    rows = [
        [each.stage, each.place, f"{each.seconds:.2f}", percent(each.share), number(each.rows_per_second)]
        for each in profile.stages
    ]
    several = profile.process_seconds != profile.seconds
    if several:
        together = profile.process_seconds
        rows.append(["all processes", "", f"{together:.2f}", percent(1.0), number(profile.rows / together)])
    share, of = ("", "all processes") if several else (percent(1.0), "the run")
    rows.append(["the whole run", "", f"{profile.seconds:.2f}", share, number(profile.rows / profile.seconds)])
    show_table(
        f"Where the time went: {profile.rows} rows", ["stage", "where", "seconds", f"% of {of}", "rows/s"], rows,
        text_columns=2,
    )  # fmt: skip
    if several:
        note(
            f"stages are summed up over {profile.processes} process(es); shares are of the time that all of them ran, "
            "rates those of one, and the whole run has their start in it too"
        )
    if profile.padding is not None:
        note(f"{percent(profile.padding)}% of the text batches was padding")
    note(f"the pace is set by: {profile.limit}", *profile.advice)
