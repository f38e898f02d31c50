"""Where training stands, on disk: weights, moments, counters and the curve, to continue from exactly.

Random numbers are functions of (seed, step), so there is no random state to keep. Two checkpoints are kept: while one
is written the one before is whole, and if one is damaged the other can be used.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from grobust.errors import RunCorruptError, RunError
from grobust.finetune._model import Classifier, optimizer_tensors, restore_optimizer
from grobust.finetune.curve import Evaluation
from grobust.models.run_files import RunFiles
from grobust.models.tensor_file import read_tensors, write_tensors

__all__ = ["TrainState", "load_state", "save_network", "save_state"]

OPTIMIZER = "optimizer."


@dataclass
class TrainState:
    """Where training stands.

    Parameters
    ----------
    step : minibatches done
    loss_sum, loss_steps : of the minibatches since the last evaluation
    evaluations : so far
    saved_step, saved_epoch : of the checkpoint that training would continue from; None before the first
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    saved_step: int | None = None


def save_state(
    files: RunFiles,
    run: str,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    scaler: dict[str, Any] | None,
) -> None:
    """Write a checkpoint; the one before becomes `RunFiles.previous_state`.

    Raises
    ------
    RunError
        If it cannot be written; the one before is untouched.
    """
    tensors = model.tensors()
    tensors |= {f"{OPTIMIZER}{key}.{name}": tensor for key, name, tensor in optimizer_tensors(model, optimizer)}
    about = {
        "run": run, "step": state.step, "loss_sum": state.loss_sum, "loss_steps": state.loss_steps,
        "evaluations": [asdict(e) for e in state.evaluations], "scaler": scaler,
    }  # fmt: skip
    if files.state.is_file():
        files.state.replace(files.previous_state)
    write_tensors(files.state, tensors, about)
    state.saved_step = state.step


def load_state(
    files: RunFiles, run: str, model: Classifier, optimizer: torch.optim.Optimizer
) -> tuple[TrainState, dict[str, Any] | None]:
    """Put network and optimizer where the latest checkpoint left them; the counters and the scaler of mixed precision.

    Without a checkpoint training begins.

    Raises
    ------
    RunCorruptError
        If the checkpoint is damaged; the message says whether the one before is whole, and what to do.
    """
    path = next((p for p in (files.state, files.previous_state) if p.is_file()), None)
    if path is None:
        return TrainState(), None
    try:
        about, tensors = _read(path, run)
    except RunCorruptError as error:
        raise RunCorruptError(f"{error}\n{_way_out(files, run)}") from error
    try:
        model.load_tensors({name: t for name, t in tensors.items() if not name.startswith(OPTIMIZER)})
        restore_optimizer(model, optimizer, _moments(tensors))
        return TrainState(
            step=about["step"], loss_sum=about["loss_sum"], loss_steps=about["loss_steps"],
            evaluations=[Evaluation(**e) for e in about["evaluations"]], saved_step=about["step"],
        ), about["scaler"]  # fmt: skip
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunCorruptError(f"{path} does not fit the network that is trained ({error}).") from error


def save_network(files: RunFiles, run: str, epoch: int, model: Classifier, keep: int | None) -> None:
    """Write the network after an epoch, and remove those that `keep` leaves no room for.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    write_tensors(files.network(epoch), model.tensors(), {"run": run, "epoch": epoch})
    if keep is not None:
        # Later epochs can lie there when training went back to an earlier checkpoint; they are written again.
        for old in [e for e in files.epochs() if e <= epoch][:-keep]:
            files.network(old).unlink(missing_ok=True)


def _read(path: Any, run: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about, tensors = read_tensors(path)
    if about.get("run") != run:
        raise RunCorruptError(f"{path} belongs to another run.")
    return about, tensors


def _way_out(files: RunFiles, run: str) -> str:
    if not files.state.is_file() or not files.previous_state.is_file():
        return "There is no other checkpoint. Delete this one, and the run begins anew."
    try:
        about, _ = _read(files.previous_state, run)
    except RunError as error:
        return f"The one before is of no use either: {error} Delete both, and the run begins anew."
    return (
        f"The one before, {files.previous_state} (step {about['step']}), is whole: delete {files.state.name} and run "
        "the same command again to continue from it; the end will be the same."
    )


def _moments(tensors: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """(key, parameter's name) → tensor. Keys of torch's optimizers have no dots."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            key, _, parameter = name.removeprefix(OPTIMIZER).partition(".")
            found[key, parameter] = tensor
    return found
