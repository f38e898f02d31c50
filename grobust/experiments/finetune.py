"""`run_finetune`: data set and backbone by name, one finetuning run per method and seed, recorded once each."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from grobust.data.catalog import load_dataset
from grobust.data.dataset import GroupedDataset
from grobust.data.tables import stratified_subset
from grobust.errors import ConfigError, RunLockedError
from grobust.experiments.collapse import MethodCollapse, collapse, collapse_by_method
from grobust.experiments.config import plain
from grobust.experiments.environment import library_versions
from grobust.experiments.extract import torch_device
from grobust.experiments.finetune_config import FinetuneConfig
from grobust.experiments.records import LabelLedger, Record, append_records, read_records
from grobust.experiments.splits import require_disjoint
from grobust.features._schema import Provenance
from grobust.finetune.launch import is_main_process, launched
from grobust.finetune.run import FinetuneProgress, FinetuneResult, finetune, run_digest, run_name
from grobust.finetune.settings import FinetuneSettings
from grobust.models.backbone import Backbone, Pool
from grobust.models.backbones import load_backbone
from grobust.models.run_files import RunFiles
from grobust.report.curves import TrajectoryPoint, plot_trajectories
from grobust.settings import BalanceBy, BalanceMethod, Match

__all__ = ["FinetuneReport", "FinetuneRun", "run_finetune"]

COMMAND = "finetune"


@dataclass(frozen=True, eq=False)
class FinetuneRun:
    """One method and seed.

    Parameters
    ----------
    method, seed, path : of the run
    results : what its record holds: the curve by columns, metrics of the last epoch, balance, interpolation epoch
    reused : whether it had been trained before
    """

    method: BalanceMethod
    seed: int
    path: Path
    results: dict[str, Any]
    reused: bool


@dataclass(frozen=True, eq=False)
class FinetuneReport:
    """All runs of one `FinetuneConfig`, in the order of methods and seeds."""

    config: FinetuneConfig
    settings: FinetuneSettings
    dataset: str
    backbone: str
    ledger: LabelLedger
    runs: tuple[FinetuneRun, ...]
    notes: tuple[str, ...]
    device: str
    figures: tuple[str, ...] = ()

    def of_method(self, method: BalanceMethod) -> tuple[FinetuneRun, ...]:
        """Runs of one method, one per seed."""
        return tuple(run for run in self.runs if run.method is method)

    @property
    def collapse(self) -> tuple[MethodCollapse, ...]:
        """What each method loses between validation's best epoch and the last."""
        return collapse_by_method(
            [collapse(run.results["epochs"], method=str(run.method), seed=run.seed) for run in self.runs]
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "dataset": self.dataset,
            "backbone": self.backbone,
            "device": self.device,
            "by": str(self.settings.by),
            "ratio": self.settings.ratio,
            "match": str(self.settings.match),
            "label_ledger": asdict(self.ledger),
            "runs": [run.results | {"reused": run.reused} for run in self.runs],
            "collapse": [each.as_dict() for each in self.collapse],
            "records": None if self.config.records is None else str(self.config.records),
            "notes": list(self.notes),
            "figures": list(self.figures),
        }


def run_finetune(
    config: FinetuneConfig, *, on_progress: Callable[[str, int, int, FinetuneProgress], None] | None = None
) -> FinetuneReport:
    """Train every method × seed that is not trained yet.

    A run counts as trained if its folder or a record holds one with the same data, weights and settings, by digest.

    Parameters
    ----------
    on_progress : called with a run's name, its number from 1, the number of runs, and where it stands

    Raises
    ------
    ConfigError, DeviceError, DataError, BackboneError
        If something asked for is out of range or not there.
    RunMismatchError, RunLockedError, RunCorruptError, RunError, DivergedError
        See `grobust.finetune`.
    """
    pool = None if config.pool is None else _pool(config.pool)
    device = torch_device(config.device)
    dataset = load_dataset(config.dataset, data_dir=config.data_dir, columns=config.columns)
    require_disjoint(dataset.name, dataset.groups, "Curves of finetuning")
    if config.limit is not None:
        dataset = stratified_subset(dataset, config.limit, seed=config.limit_seed)
    recipe = config.recipe(dataset.kind)
    base = recipe.finetune_settings()
    backbone = load_backbone(
        recipe.backbone or config.backbone, pool=pool, device=device, **_inputs(config, recipe.load_arguments())
    )
    recorded = {} if config.overwrite else _recorded(config.records)
    wanted = config.runs(base)
    runs, notes = [], _notes(config, base)
    for number, settings in enumerate(wanted, start=1):
        digest = run_digest(dataset, backbone, settings)
        path = config.out / run_name(dataset, backbone, settings)
        if digest in recorded and not RunFiles(path).description.exists():
            runs.append(_run(settings, path, recorded[digest], reused=True))
            notes.append(f"{path} is not there, but its record is: not trained again (--overwrite does)")
            continue
        try:
            runs.append(
                _train(config, dataset, backbone, settings, path, _told(on_progress, path, number, len(wanted)))
            )
        except RunLockedError as error:
            # Only the first process meets the lock; the others must not go on with another run.
            if len(wanted) == 1 or launched():
                raise
            notes.append(f"left out: {error}")
    if not runs:
        raise RunLockedError(f"Other processes are training all {len(wanted)} runs in {config.out}. Wait for them.")
    report = FinetuneReport(
        config, base, dataset.name, backbone.spec, _ledger(config, base), tuple(runs), tuple(notes), device
    )
    if config.figures is None or not is_main_process():
        return report
    split = _shown(runs[0].results["epochs"])
    points = [point for run in runs for point in _points(dataset.name, run, split)]
    files = plot_trajectories(points, config.figures / "finetune", split=split)
    return replace(report, figures=tuple(map(str, files)))


def _inputs(config: FinetuneConfig, of_recipe: dict[str, Any]) -> dict[str, Any]:
    """Input size of the backbone: as given, or the recipe's; but a finetuned network goes on with its own."""
    given = {"image_size": config.image_size, "max_tokens": config.max_tokens}
    if config.backbone.startswith("run:"):
        return given
    return given | of_recipe


def _train(
    config: FinetuneConfig,
    dataset: GroupedDataset,
    backbone: Backbone,
    settings: FinetuneSettings,
    path: Path,
    on_progress: Callable[[FinetuneProgress], None] | None,
) -> FinetuneRun:
    result = finetune(dataset, backbone, settings, out=path, overwrite=config.overwrite, on_progress=on_progress)
    run = _run(settings, path, _results(result) | {"parameters": _parameters(dataset, backbone)}, reused=result.reused)
    if config.records is not None and is_main_process():
        own = replace(config, balance=(run.method,), seeds=(run.seed,))
        record = Record(
            command=COMMAND, config=plain(own) | {"settings": settings.identity()},
            provenance=asdict(_provenance(dataset, backbone, settings)), versions=library_versions(),
            device=result.device, seed=run.seed, label_ledger=asdict(_ledger(config, settings)), results=run.results,
        )  # fmt: skip
        _append_once(config.records, record, RunFiles(path))
    return run


def _append_once(records: Path, record: Record, files: RunFiles) -> None:
    """Append the record of a run unless it is there: a run can be killed between its end and its record."""
    with FileLock(files.lock):
        if record.results["run"] not in _recorded(records):
            append_records(records, [record])


def _recorded(records: Path | None) -> dict[str, dict[str, Any]]:
    """Results of the runs in a records file, by digest."""
    if records is None or not records.is_file():
        return {}
    found = [record["results"] for record in read_records(records, command=COMMAND)]
    return {results["run"]: results for results in found if "run" in results}


def _run(settings: FinetuneSettings, path: Path, results: dict[str, Any], *, reused: bool) -> FinetuneRun:
    return FinetuneRun(settings.balance, settings.seed, path, results, reused)


def _results(result: FinetuneResult) -> dict[str, Any]:
    """JSON-able results of a run: the same for a run that was killed and continued, but for `seconds`."""
    curve = result.curve
    last = {split: curve.metrics(split).as_dict() for split in curve.splits}
    return {
        "method": str(result.settings.balance),
        "seed": result.settings.seed,
        "run": result.run,
        "path": str(result.path),
        "group_names": list(curve.groups["train"].names),
        "epochs": curve.as_dict(),
        **last,
        "interpolation_epoch": curve.interpolation_epoch,
        "balance": asdict(result.balance),
        "settings": result.settings.identity(),
        "processes": result.processes,
        "seconds": result.seconds,
        "notes": list(result.notes),
    }


def _parameters(dataset: GroupedDataset, backbone: Backbone) -> int:
    """Of the network with its head: the number that a scaling study goes by."""
    body = sum(parameter.numel() for parameter in backbone.network.parameters())
    return body + dataset.groups.n_classes * (backbone.dim + 1)


def _provenance(dataset: GroupedDataset, backbone: Backbone, settings: FinetuneSettings) -> Provenance:
    return Provenance(
        backbone=backbone.spec, weights_digest=backbone.digest, preprocessing=backbone.preprocessing,
        pooling=str(backbone.pooling), precision=str(settings.precision), dtype="float32", dataset=dataset.name,
        dataset_digest=dataset.digest, options=dict(backbone.options), versions=dict(backbone.versions),
    )  # fmt: skip


def _ledger(config: FinetuneConfig, settings: FinetuneSettings) -> LabelLedger:
    """The last epoch is the result: nothing is chosen."""
    by_group = settings.by is BalanceBy.GROUP and set(config.balance) != {BalanceMethod.NONE}
    return LabelLedger.of(group_training=by_group, group_selection=False, selects=False)


def _notes(config: FinetuneConfig, settings: FinetuneSettings) -> list[str]:
    if len(config.balance) == 1:
        return []
    if settings.match is Match.EPOCHS:
        return ["equal epochs: methods take different numbers of steps, since they keep different numbers of rows"]
    return ["equal steps: every method takes as many steps per epoch as all training rows would"]


def _shown(curve: Mapping[str, Any]) -> str:
    """The split whose curve is drawn: test rows if there are some."""
    return next(split for split in ("test", "val", "train") if split in curve)


def _points(dataset: str, run: FinetuneRun, split: str) -> list[TrajectoryPoint]:
    curve = run.results["epochs"]
    shown = curve[split]
    val = curve["val"]["wga"] if "val" in curve else [None] * len(curve["epochs"])
    columns = (curve["epochs"], curve["steps"], curve["rows"], curve["loss"], shown["wga"], shown["average"], val,
               curve["train"]["average"])  # fmt: skip
    return [TrajectoryPoint(dataset, str(run.method), run.seed, *values) for values in zip(*columns, strict=True)]


def _told(
    on_progress: Callable[[str, int, int, FinetuneProgress], None] | None, path: Path, number: int, runs: int
) -> Callable[[FinetuneProgress], None] | None:
    return None if on_progress is None else lambda progress: on_progress(path.name, number, runs, progress)


def _pool(name: str) -> Pool:
    try:
        return Pool(name)
    except ValueError:
        raise ConfigError(f"pool must be one of {', '.join(Pool)}; got {name!r}.") from None
