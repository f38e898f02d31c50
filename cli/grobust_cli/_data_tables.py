"""Tables of ``grobust data verify`` and ``grobust data describe``."""

from typing import TYPE_CHECKING

from grobust_cli._output import note, number, percent, show_table

if TYPE_CHECKING:
    from grobust.data.describe import SplitDescription
    from grobust.experiments.describe import DescribeReport
    from grobust.experiments.verify_data import VerifyReport

__all__ = ["show_description", "show_verification"]

# Rows of a table, lines of a list and characters of a text that fit a screen; --json has everything.
LISTED_GROUPS, LISTED, TEXT = 64, 10, 160
UNKNOWN = "?"


def show_verification(report: "VerifyReport") -> None:
    """Counts beside the published ones, then what is wrong with items."""
    names = list(next(iter(report.counts.values())))
    columns = ["group", *(f"{split}{end}" for split in report.counts for end in ("", " published"))]
    rows = []
    for name in names[:LISTED_GROUPS]:
        cells = [name]
        for split, groups in report.counts.items():
            wanted = report.published_count(split, name)
            cells += [f"{groups[name]:,}" + " ✗" * (wanted not in (None, groups[name]))]
            cells += [UNKNOWN if wanted is None else f"{wanted:,}"]
        rows.append(cells)
    show_table(f"{report.name}: rows per group", columns, rows)
    _cut(len(names))
    if report.published is None:
        note("no counts were published for this data set; only its items were checked")
    else:
        note(f"published: {report.published.source}")
    for each in report.mismatches:
        what = "all rows" if each.group is None else f"'{each.group}'"
        note(f"MISMATCH {each.split}, {what}: {each.found:,} here, {each.published:,} published")
    items = report.items
    _some("missing", list(items.missing))
    _some("unreadable", [f"{name}: {reason}" for name, reason in items.unreadable])
    pairs = [" = ".join(f"{split}:{name}" for split, name in each.rows[:4]) for each in items.duplicates]
    _some("the same content in several splits", pairs)
    if items.decoded:
        note(f"{items.n:,} items read; {items.n_repeated:,} repeat the content of an earlier one")
    elif not items.missing:
        note(f"{items.n:,} items; their files were looked for, not read")
    note(f"manifest digest {report.digest}", "all is as it should be" if report.ok else "NOT as it should be")


def show_description(report: "DescribeReport") -> None:
    """A table of groups per split, of classes, of the correlation, and samples."""
    for each in report.splits:
        _groups(report, each)
    show_table(
        f"{report.name}: classes and imbalance",
        ["split", "class", "rows", "%", "minority group", "largest / smallest class", "largest / smallest group"],
        [
            [each.split, name, f"{n:,}", percent(n / max(len(each.groups), 1)),
             "–" if minority is None else each.groups.names[minority],
             number(each.class_imbalance), number(each.group_imbalance)]
            for each in report.splits
            for name, n, minority in list(
                zip(each.groups.class_names, each.groups.class_counts.tolist(), each.minorities, strict=True)
            )[:LISTED_GROUPS]
        ],
        text_columns=2,
    )  # fmt: skip
    _association(report)
    texts = [[group, name, _short(text)] for group, rows in report.samples for name, text in rows if text is not None]
    if texts:
        show_table("samples", ["group", "id", "text"], texts[:LISTED_GROUPS], text_columns=3)
    if report.sheet is not None:
        note(f"images of every group: {report.sheet}")
    elif report.kind == "image":
        note("--sheet groups.png draws images of every group")
    note(*report.notes, f"{report.n:,} rows, manifest digest {report.digest}")


def _groups(report: "DescribeReport", each: "SplitDescription") -> None:
    n = len(each.groups)
    groups = list(zip(each.reported.names, each.reported.counts.tolist(), strict=True))
    shown = groups[:LISTED_GROUPS]
    rows = [[name, f"{count:,}", percent(count / n if n else None)] for name, count in shown]
    show_table(f"{report.name}, {each.split}: {n:,} rows", ["group", "rows", "%"], rows)
    _cut(len(groups))


def _association(report: "DescribeReport") -> None:
    def interval(low: float | None, high: float | None) -> str:
        return f"{number(low)} – {number(high)}" if low is not None else "–"

    show_table(
        "how strongly label and attribute go together",
        ["split", "mutual information, bits", "95% interval", "% of the label's entropy", "Cramér's V", "95% interval",
         "p (independence)"],
        [
            [each.split, number(a.mutual_information), interval(a.mutual_information_low, a.mutual_information_high),
             percent(a.explained), number(a.cramers_v), interval(a.cramers_v_low, a.cramers_v_high), number(a.p_value)]
            for each in report.splits
            for a in (each.association,)
        ],
    )  # fmt: skip


def _some(what: str, lines: list[str]) -> None:
    if lines:
        note(f"{len(lines):,} {what}:", *(f"  {line}" for line in lines[:LISTED]))
        if len(lines) > LISTED:
            note(f"  … and {len(lines) - LISTED:,} more; --json lists all")


def _cut(n: int) -> None:
    if n > LISTED_GROUPS:
        note(f"{n - LISTED_GROUPS:,} more groups; --json lists all")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT else f"{line[: TEXT - 1]}…"
