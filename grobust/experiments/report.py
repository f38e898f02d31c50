"""`run_report`: records, stores and heads as one HTML page that opens without a network."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grobust.data.catalog import load_dataset
from grobust.data.dataset import GroupedDataset
from grobust.errors import ConfigError, DataError, StoreMismatchError
from grobust.experiments.gathered import gather_runs
from grobust.experiments.report_config import ReportConfig
from grobust.experiments.report_features import HeadOnStore, examples_of, predict_test, scatter_of
from grobust.experiments.sweep.folder import SweepFolder
from grobust.features.store import FeatureStore
from grobust.heads import Heads, load_heads
from grobust.report.page.content import Diagnosis, PageContent
from grobust.report.page.render import render_page
from grobust.report.page.sections import content_of_records, summaries_of
from grobust.report.whole_file import write_whole

__all__ = ["PageReport", "run_report"]


@dataclass(frozen=True)
class PageReport:
    """The page that was written."""

    config: ReportConfig
    out: Path
    n_bytes: int
    runs: int
    content: PageContent
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "out": str(self.out),
            "bytes": self.n_bytes,
            "runs": self.runs,
            "sections": [name for name, _ in self.content.sections],
            "summaries": [
                {"title": card.title, "figure": card.figure, "of": card.figure_of,
                 "sentences": [*card.sentences, *card.cautions]}
                for card in self.content.summaries
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def run_report(config: ReportConfig, *, on_progress: Callable[[int, int, str], None] | None = None) -> PageReport:
    """Write the page; what a section needs and does not have leaves the section out, with a note.

    Parameters
    ----------
    on_progress : called with the stores done, all stores, and the name of the one in work

    Raises
    ------
    DataError
        If records, heads, data set or diagnosis are missing or damaged.
    ConfigError
        If a condition is unusable, there is no such head, stores or heads are missing for what is asked for, or UMAP is
        not installed.
    StoreMismatchError
        If the heads fit none of the stores, or the data set holds the rows of none.
    """
    records, notes = gather_runs(config.records, where=config.where)
    diagnosis = None if config.diagnosis is None else _diagnosis(config.diagnosis)
    paths, own_heads = _stores(config), _heads_of_sweeps(config)
    _check_asked(config, paths, (*config.heads, *own_heads))
    heads = {path: load_heads(path) for path in (*config.heads, *own_heads)}
    datasets = {
        name: load_dataset(name, data_dir=config.data_dir, columns=config.columns if name == "metadata_csv" else None)
        for name in config.datasets
    }
    content = content_of_records(
        records,
        title=config.title or "Group robustness report",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_files(config),
        notes=notes,
    )
    scatters, examples, more, drawn = [], [], [], []
    unused: set[str | Path] = {*config.heads, *datasets}
    for number, path in enumerate(paths):
        if on_progress is not None:
            on_progress(number, len(paths), path.name)
        with FeatureStore(path) as store:
            drawn.append(store.provenance.dataset.partition("[")[0])
            # A sweep's heads are for the data that they were trained on; heads asked for are for any that fit.
            fitting = [
                p for p, own in heads.items() if _fits(own, store) and (p not in own_heads or _trained_on(own, store))
            ]
            holding = [name for name, data in datasets.items() if _holds(data, store)]
            unused -= {*fitting, *holding}
            head = _head(config, [heads[p] for p in fitting], store, records) if fitting else None
            scatters.append(scatter_of(store, config, head))
            items = datasets[holding[0]] if holding else None
            found = None if head is None else examples_of(store, config, head, items)
            examples += [] if found is None else [found]
    _check_used(paths, unused)
    if paths and not heads:
        more.append("mistakes are not shown: they need heads, `grobust probe STORE --save HEADS`, then --heads HEADS")
    elif examples and not datasets:
        named = " ".join(f"--dataset {name}" for name in dict.fromkeys(drawn))
        more.append(f"mistakes are listed by id: {named} shows their texts or images")
    if not paths:
        more.append("features are not drawn: they need --store STORE")
    content = replace(
        content, scatter=tuple(scatters), examples=tuple(examples), diagnosis=diagnosis, notes=(*content.notes, *more)
    )
    page = render_page(content)
    write_whole(config.out, page)
    return PageReport(config, config.out, len(page.encode()), len(records), content, (*notes, *more))


def _stores(config: ReportConfig) -> list[Path]:
    """The stores, and those in folders, each once; where none is given, those of the sweeps among the records."""
    found: dict[Path, None] = {}
    own = [folder.stores for folder in map(SweepFolder, config.records) if folder.stores.is_dir()]
    for path in config.stores or own:
        inside = sorted(path.glob("*.h5")) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} has no feature store. Expected files that end in .h5.")
        found |= dict.fromkeys(inside)
    return list(found)


def _heads_of_sweeps(config: ReportConfig) -> list[Path]:
    """Heads that the sweeps among the records left; none where heads are given."""
    if config.heads:
        return []
    return [path for folder in map(SweepFolder, config.records) for path in sorted(folder.heads.glob("*.safetensors"))]


def _check_asked(config: ReportConfig, stores: Sequence[Path], heads: Sequence[Path]) -> None:
    for given, name in ((config.heads, "heads"), (config.datasets, "dataset")):
        if given and not stores:
            raise ConfigError(f"{name} needs a feature store whose rows it belongs to: --store STORE.")
    if config.head is not None and not heads:
        raise ConfigError("head names one of the heads in a file: give --heads FILE too.")
    if config.datasets and not heads:
        raise ConfigError("dataset shows the texts or images of mistakes, and those need heads: --heads FILE.")


def _check_used(stores: Sequence[Path], unused: set[str | Path]) -> None:
    """Heads and data sets that go with no store are an error: something else was meant."""
    names = ", ".join(map(str, stores))
    for each in sorted(unused, key=str):
        if isinstance(each, Path):
            raise StoreMismatchError(
                f"{each} was trained on features of another kind than {names} hold. "
                "Train heads on one of them with `grobust probe --save`."
            )
        raise StoreMismatchError(
            f"The rows of {names} are not rows of the data set '{each}'. "
            "Give the one they were extracted from (`grobust info STORE` names it)."
        )


def _fits(heads: Heads, store: FeatureStore) -> bool:
    return not heads.difference(store.provenance, store.dim) and heads.class_names == store.groups.class_names


def _trained_on(heads: Heads, store: FeatureStore) -> bool:
    return heads.provenance is not None and heads.provenance.dataset == store.provenance.dataset


def _head(
    config: ReportConfig, fitting: Sequence[Heads], store: FeatureStore, records: Sequence[dict[str, Any]]
) -> HeadOnStore | None:
    """The head asked for, or the recommended one, on a store's test rows; None where there are none."""
    if config.head is None:
        heads, index = _recommended(fitting, store, records)
    else:
        heads, index = fitting[0], fitting[0].index(config.head)
    return predict_test(store, heads.probe(index), heads.infos[index])


def _recommended(fitting: Sequence[Heads], store: FeatureStore, records: Sequence[dict[str, Any]]) -> tuple[Heads, int]:
    """The first head of the method that the page recommends for this store; the first of all where there is none."""
    made = store.provenance
    of_data = [r for r in records if r["provenance"].get("dataset") == made.dataset]
    # Probes of these features know best which of their heads to show; then whatever was run on this data set.
    probes = [r for r in of_data if r["command"] == "probe" and r["provenance"].get("backbone") == made.backbone]
    for card in summaries_of(probes or of_data):
        if card.method is not None:
            base = card.method.split(" ")[0].rstrip(",")
            for heads in fitting:
                for i, info in enumerate(heads.infos):
                    named = f"{info.method} {info.ratio:g}:1" if info.ratio is not None else str(info.method)
                    if card.method.startswith(named) or (base == info.method and " " not in card.method):
                        return heads, i
    return fitting[0], 0


def _holds(dataset: GroupedDataset, store: FeatureStore) -> bool:
    return set(store.sample_ids) <= set(dataset.sample_ids)


def _diagnosis(path: Path) -> Diagnosis:
    if not path.is_file():
        raise DataError(f"No diagnosis at {path}. Write one: grobust diagnose STORE --json > {path}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        verdict = found["verdict"]
        return Diagnosis(
            dataset=str(found["dataset"]),
            backbone=str(found["backbone"]),
            finding=str(verdict["finding"]),
            recommendation=str(verdict["recommendation"]),
            evidence=tuple(map(str, verdict["evidence"])),
            notes=tuple(map(str, found.get("notes", []))),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not what `grobust diagnose --json` prints ({type(error).__name__}: {error})."
        ) from error


def _files(config: ReportConfig) -> list[tuple[str, str]]:
    """Names alone, without folders: a page is passed on."""
    found = [("records", ", ".join(path.name for path in config.records))]
    if config.stores:
        found.append(("stores", ", ".join(path.name for path in config.stores)))
    if config.heads:
        found.append(("heads", ", ".join(path.name for path in config.heads)))
    if config.where:
        found.append(("only runs with", "; ".join(config.where)))
    return found
