"""Overhead of finetuning: steps per second of `finetune` against a bare loop of the same network on preloaded batches.

Ours decodes, augments and collates images beside the network, looks at every loss, and can be killed at any moment;
the peer runs forward, backward and AdamW alone, on batches that wait in memory. Evaluations and checkpoints, which come
once per epoch, are not timed. The ratio is peer seconds / our seconds per step: 1 would be no overhead.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import Row, arguments, private_bytes, report
from torch import Tensor, nn

from grobust.data.tables import ImagePixels
from grobust.finetune._model import AUGMENT_STREAM, Classifier, derived_seed
from grobust.finetune.run import FinetuneProgress, finetune
from grobust.finetune.sampler import minibatches
from grobust.finetune.settings import FinetuneSettings
from grobust.groups import Groups
from grobust.models.augment import training_collate
from grobust.models.backbone import Backbone
from grobust.models.backbones import load_backbone
from grobust.models.run_files import RunFiles

BATCH, LR, DECAY = 32, 1e-4, 1e-4
# Steps before the clock starts: allocations, and the loader's first batches.
WARM = 4
# What may come on top after the third epoch, for allocators and caches.
ALLOWED_GROWTH = 16 << 20

Loaded = list[tuple[dict[str, Tensor], Tensor]]


def images(n: int, pixels: int) -> ImagePixels:
    """Random images of two classes and two tints, all of them for training."""
    rng = np.random.default_rng(0)
    return ImagePixels(
        name="random", groups=Groups.from_arrays(np.arange(n) % 2, rng.integers(2, size=n)),
        split=np.zeros(n, dtype=np.int8), sample_ids=tuple(str(i) for i in range(n)),
        pixels=rng.integers(0, 256, size=(n, pixels, pixels), dtype=np.uint8),
        tints=((240, 120, 60), (70, 150, 240)),
    )  # fmt: skip


def preloaded(data: ImagePixels, backbone: Backbone, settings: FinetuneSettings) -> Loaded:
    """The minibatches of `finetune`, made beforehand."""
    sample = settings.balancer().sample(data.groups, seed=settings.seed)
    collate = training_collate(backbone, seed=derived_seed(AUGMENT_STREAM, settings.seed))
    device = next(iter(backbone.network.parameters())).device
    loaded: Loaded = []
    for step, rows in enumerate(minibatches(sample, epoch=0, batch_size=BATCH)):
        items = [data[int(row)] for row in rows]
        batch = collate(items, [(step, i) for i in range(rows.size)]) if settings.augment else backbone.collate(items)
        pixels = batch["pixels"].to(device).contiguous(memory_format=torch.channels_last)
        loaded.append(({"pixels": pixels}, torch.from_numpy(data.groups.labels[rows]).to(device)))
    return loaded


def bare(backbone: Backbone, settings: FinetuneSettings, loaded: Loaded) -> tuple[float, dict[str, Tensor]]:
    """Seconds per step of the plain loop, and the network after it."""
    model = Classifier(backbone, 2, settings).to(loaded[0][1].device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    marks = []
    for batch, labels in loaded:
        loss = nn.functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        marks.append(_now())
    return _per_step(marks), model.tensors()


def ours(data: ImagePixels, backbone: Backbone, settings: FinetuneSettings, folder: Path) -> tuple[float, RunFiles]:
    """Seconds per step of `finetune`, and where its network is."""
    marks: list[float] = []
    result = finetune(
        data, backbone, settings, out=folder / "run", overwrite=True, on_progress=lambda at: marks.append(_now())
    )
    return _per_step(marks), RunFiles(result.path)


def speed(name: str, data: ImagePixels, backbone: Backbone, settings: FinetuneSettings, pairs: int) -> Row:
    loaded = preloaded(data, backbone, settings)
    with tempfile.TemporaryDirectory() as folder:
        _, files = ours(data, backbone, settings, Path(folder))
        _, expected = bare(backbone, settings, loaded)
        _, found = files.read_network(1)
        difference = max(float((found[key].double() - t.cpu().double()).abs().max()) for key, t in expected.items())
        # AdamW's first steps are of the size lr, whichever way a gradient near 0 was rounded.
        assert difference < LR, difference
        times = [
            (ours(data, backbone, settings, Path(folder))[0], bare(backbone, settings, loaded)[0])
            for _ in range(pairs)
        ]  # fmt: skip
    return Row(
        name=name, ours_seconds=statistics.median(a for a, _ in times), peer="bare loop, preloaded batches",
        peer_seconds=statistics.median(b for _, b in times), ratio=statistics.median(b / a for a, b in times),
        pairs=pairs, answer=f"same weights within {difference:.0e}", unit="s/step",
    )  # fmt: skip


def memory(spec: str, pixels: int, epochs: int) -> Row:
    """Private memory after the third epoch and after the last, checkpoints and evaluations included."""
    data, backbone = images(4 * BATCH, pixels), load_backbone(spec, image_size=pixels)
    after: list[int] = []

    def look(at: FinetuneProgress) -> None:
        if at.step == at.epoch * at.steps // at.epochs:
            after.append(private_bytes())

    with tempfile.TemporaryDirectory() as folder:
        finetune(data, backbone, FinetuneSettings(epochs=epochs, batch_size=BATCH), out=folder, on_progress=look)
    assert len(after) == epochs, after
    assert after[-1] - after[2] < ALLOWED_GROWTH, after
    return Row(
        name=f"host memory over {epochs} epochs, {spec}", ours_seconds=after[-1] / 2**20, unit="MiB",
        peer="after the third epoch", peer_seconds=after[2] / 2**20, ratio=after[2] / after[-1], pairs=1,
        answer=f"{(after[-1] - after[2]) / 2**20:+.1f} MiB",
    )  # fmt: skip


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    small = "timm:test_convnext@random"
    spec, pixels, steps, pairs = ("timm:resnet18@random", 96, 24, 5) if full else (small, 32, 8, 1)
    rows = []
    for augment in (False, True):
        how = "crops and flips" if augment else "no augmentation"
        name = f"{spec}, {pixels} px, batch {BATCH}, {how}"
        if args.only not in name:
            continue
        backbone = load_backbone(spec, image_size=pixels, device=args.device)
        settings = FinetuneSettings(
            epochs=1, batch_size=BATCH, lr=LR, weight_decay=DECAY, augment=augment, head_dropout=0.0
        )
        rows.append(speed(name, images(steps * BATCH, pixels), backbone, settings, pairs))
    if args.only in "host memory over epochs":
        rows.append(memory(small, 32, 12 if full else 5))
    report("finetune", rows, args)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _per_step(marks: list[float]) -> float:
    """Without the first steps, and without the last one of ours, after which the network is evaluated."""
    return (marks[-2] - marks[WARM - 1]) / (len(marks) - 1 - WARM)


if __name__ == "__main__":
    main()
