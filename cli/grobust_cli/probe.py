"""``grobust probe``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grobust.errors import ConfigError
from grobust.settings import (
    PROXY_L2,
    SGD,
    BalanceBy,
    Match,
    Optimizer,
    Penalty,
    Schedule,
    SelectBy,
    WeightNormalization,
)
from grobust_cli._options import (
    By,
    Device,
    DeviceOption,
    Json,
    Methods,
    Ratio,
    Records,
    Sampler,
    Store,
    byte_size,
    ints,
    methods,
    strengths,
)
from grobust_cli._output import note, progress_bar, show_json
from grobust_cli._probe_tables import show_probe, show_probe_notes
from grobust_cli._trajectory_tables import show_trajectories
from grobust_cli.methods import fit_methods, make_config, method_names

if TYPE_CHECKING:
    from grobust.experiments.config import ProbeConfig, TrajectoryConfig

__all__ = ["probe"]

SOLVER, TRAINING = "Solving (without --trajectory)", "Training on minibatches (with --trajectory)"
PUBLISHED = "Methods of the literature (with --method)"
# Parameters that only one of the modes has.
OF_SOLVER = ("penalty", "l2", "l1", "rtol", "max_iter", "max_bytes")
OF_BALANCE = ("balance", "by", "ratio", "sampler", "normalize", "proxy_l2", "trajectory", "device")
OF_METHODS = ("settings", "early")
OF_TRAINING = ("epochs", "lr", "weight_decay", "batch_size", "optimizer", "momentum", "schedule", "step_size",
               "gamma", "match")  # fmt: skip


def probe(
    context: typer.Context,
    store: Store,
    balance: Methods = "none",
    by: By = BalanceBy.CLASS,
    ratio: Ratio = 2.0,
    sampler: Sampler = True,
    normalize: Annotated[
        WeightNormalization, typer.Option(help="Divide upweighted losses by the batch's weights, or by nothing.")
    ] = WeightNormalization.BATCH,
    seeds: Annotated[str, typer.Option(help="Seeds with commas, or a range such as 0..4.")] = "1,2,3",
    select: Annotated[
        SelectBy,
        typer.Option(
            help="Validation score that chooses; `wga` and `average_group` read attributes of validation rows, the "
            "bias-unsupervised scores and `worst_pseudo_group` a bias proxy."
        ),
    ] = SelectBy.WORST_CLASS,
    proxy_l2: Annotated[float, typer.Option(help="L2 strength of the bias proxy.")] = PROXY_L2,
    penalty: Annotated[Penalty, typer.Option(help="Of the weights.", rich_help_panel=SOLVER)] = Penalty.L2,
    l2: Annotated[
        str,
        typer.Option(
            help="L2 strengths (per-sample loss) to choose from; `path`: 13, half-decades from 1e-6 to 1.",
            rich_help_panel=SOLVER,
        ),
    ] = "1e-4,1e-3,1e-2,1e-1,1",
    l1: Annotated[
        str,
        typer.Option(
            help="L1 strengths to choose from; `path`: 7, half-decades below the strength at which every weight is 0.",
            rich_help_panel=SOLVER,
        ),
    ] = "path",
    rtol: Annotated[
        float,
        typer.Option(help="Converged when so close to the minimum, relative to it.", rich_help_panel=SOLVER),
    ] = 1e-6,
    max_iter: Annotated[int, typer.Option(help="Most iterations of the solver.", rich_help_panel=SOLVER)] = 1000,
    max_bytes: Annotated[
        str, typer.Option(help="Memory of the solver's work arrays: 2GiB, 500MB.", rich_help_panel=SOLVER)
    ] = "2GiB",
    trajectory: Annotated[
        bool,
        typer.Option(
            "--trajectory",
            help="Train on minibatches; accuracy of every group after every epoch.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the rows.", rich_help_panel=TRAINING)] = SGD.epochs,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = 1e-2,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.", rich_help_panel=TRAINING)] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Rows of a minibatch.", rich_help_panel=TRAINING)] = SGD.batch_size,
    optimizer: Annotated[Optimizer, typer.Option(help="Update.", rich_help_panel=TRAINING)] = SGD.optimizer,
    momentum: Annotated[float, typer.Option(help="Of SGD.", rich_help_panel=TRAINING)] = SGD.momentum,
    schedule: Annotated[Schedule, typer.Option(help="Learning rate over epochs.", rich_help_panel=TRAINING)] = (
        SGD.schedule
    ),
    step_size: Annotated[
        int, typer.Option(help="Epochs between falls of `--schedule step`.", rich_help_panel=TRAINING)
    ] = SGD.step_size,
    gamma: Annotated[
        float, typer.Option(help="Factor of each fall of `--schedule step`.", rich_help_panel=TRAINING)
    ] = SGD.gamma,
    match: Annotated[
        Match, typer.Option(help="Equal epochs of each method's own rows, or equal steps.", rich_help_panel=TRAINING)
    ] = SGD.match,
    method: Annotated[
        str | None,
        typer.Option(
            help="One method, several with commas, or `all`; `grobust methods` lists them.",
            metavar="METHOD",
            show_default=False,
            rich_help_panel=PUBLISHED,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting, NAME=VALUE or METHOD.NAME=VALUE, lists with commas; repeat for more.",
            metavar="NAME=VALUE",
            show_default=False,
            rich_help_panel=PUBLISHED,
        ),
    ] = None,
    early: Annotated[
        Path | None,
        typer.Option(
            help="Store of the same rows' features at an early checkpoint or before finetuning (self, ula).",
            show_default=False,
            rich_help_panel=PUBLISHED,
        ),
    ] = None,
    device: DeviceOption = Device.AUTO,
    records: Records = None,
    save: Annotated[
        Path | None,
        typer.Option(help="File for the heads (.safetensors): chosen, or of the last epoch.", show_default=False),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for figures and their numbers.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Fit last-layer probes on stored features and report accuracy per group.

    Every balancing method, seed and strength is fitted in one solve to a stated optimality. Strengths are chosen on
    the validation split; test data is only reported on. With --trajectory the heads are trained on minibatches
    instead: the result is the last epoch, and the epoch that validation would have chosen stands beside it. With
    --method published methods are run with their own balancing and choices; --select replaces the score they choose by.

    Examples:

    - `grobust probe f.h5 --balance mixture --ratio 2`

    - `grobust probe f.h5 --balance all --by group --l2 path --seeds 0..4 --save heads.safetensors`

    - `grobust probe f.h5 --balance subsetting --penalty l1 --select wga --json`

    - `grobust probe f.h5 --balance all --trajectory --epochs 50 --lr 1e-2 --figures figures`

    - `grobust probe f.h5 --method dfr,afr --set afr.gamma=4,8,12 --seeds 0..4`

    - `grobust probe f.h5 --method all --select worst_class --json`
    """
    from grobust.arrays import resolve_device
    from grobust.experiments.config import L1_PATH, L2_PATH, ProbeConfig, TrajectoryConfig

    given = {name for name in context.params if _is_given(context, name)}
    _check_modes(given, trajectory, penalty, with_method=method is not None)
    if method is not None:
        fit_methods(
            make_config(
                store=store, names=method_names(method), items=settings or (), early=early,
                select=select if "select" in given else None, seeds=ints(seeds, "--seeds"),
                records=records or store.parent / "records.jsonl", save=_safetensors(save), figures=figures,
            ),
            json,
        )  # fmt: skip
        return
    shared: dict[str, Any] = {
        "store": store, "balance": methods(balance), "by": by, "ratio": ratio, "sampler": sampler,
        "normalize": normalize,
        "seeds": ints(seeds, "--seeds"), "select": select, "proxy_l2": proxy_l2,
        "device": resolve_device(device),
        "records": records or store.parent / "records.jsonl", "save": _safetensors(save), "figures": figures,
    }  # fmt: skip
    if trajectory:
        sgd = SGD(
            epochs=epochs, batch_size=batch_size, optimizer=optimizer, momentum=momentum, schedule=schedule,
            step_size=step_size, gamma=gamma, match=match,
        )  # fmt: skip
        _train(TrajectoryConfig(**shared, learning_rate=lr, weight_decay=weight_decay, sgd=sgd), json)
        return
    config = ProbeConfig(
        **shared, penalty=penalty, l2=strengths(l2, "--l2", path=L2_PATH), l1=strengths(l1, "--l1", path=L1_PATH),
        l1_relative=l1.strip() == "path", rtol=rtol, max_iter=max_iter, max_bytes=byte_size(max_bytes, "--max-bytes"),
    )  # fmt: skip
    _solve(config, json)


def _solve(config: "ProbeConfig", json: bool) -> None:
    from grobust.experiments.probe import run_probe

    with progress_bar("probe") as advance:
        report = run_probe(config, on_progress=lambda done, total: advance(done, total, "heads"))
    if json:
        show_json(report.as_dict())
        return
    show_probe(report)
    show_probe_notes(report, *_files(config, report.device, report.figures))


def _train(config: "TrajectoryConfig", json: bool) -> None:
    from grobust.experiments.trajectory import run_trajectories

    heads = len(config.balance) * len(config.seeds)
    with progress_bar(f"train {heads} heads") as advance:
        report = run_trajectories(config, on_progress=lambda done, total: advance(done, total, "epochs"))
    if json:
        show_json(report.as_dict())
        return
    show_trajectories(report)
    note(*_files(config, report.device, report.figures))


def _files(config: "ProbeConfig | TrajectoryConfig", device: str, figures: tuple[str, ...]) -> list[str]:
    lines = [f"device {device}; records appended to {config.records}"]
    if config.save is not None:
        lines.append(f"heads saved to {config.save}; use them with `grobust predict STORE {config.save}`")
    if figures:
        lines.append(f"figures, and their numbers as CSV: {', '.join(figures)}")
    return lines


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_modes(given: set[str], trajectory: bool, penalty: Penalty, *, with_method: bool) -> None:
    """What is given but would be ignored is an error."""
    if with_method:
        for name in sorted(given.intersection((*OF_BALANCE, *OF_SOLVER, *OF_TRAINING))):
            raise ConfigError(
                f"--{name.replace('_', '-')} has no meaning with --method: methods balance, solve and train as "
                "published, on the CPU. Use --set for their settings."
            )
        return
    for name in sorted(given.intersection(OF_METHODS)):
        raise ConfigError(f"--{'set' if name == 'settings' else name} needs --method.")
    for name in sorted(given.intersection(OF_SOLVER if trajectory else OF_TRAINING)):
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(
            f"{option} has no meaning with --trajectory: heads are trained on minibatches (see --weight-decay)."
            if trajectory
            else f"{option} needs --trajectory: without it heads are solved to the optimum."
        )
    unused = {Penalty.L2: "l1", Penalty.L1: "l2"}.get(penalty)
    if unused in given:
        raise ConfigError(f"--{unused} has no meaning with --penalty {penalty}. Use --penalty elasticnet for both.")


def _safetensors(path: Path | None) -> Path | None:
    if path is not None and (path.suffix != ".safetensors" or path.is_dir()):
        raise ConfigError(f"--save expects a file that ends in .safetensors, got {str(path)!r}.")
    return path
