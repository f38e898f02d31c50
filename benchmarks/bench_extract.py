"""Extraction: rows per second of `extract_features` against the bare network, the tutorials' loop, and peers.

- Against the bare network on preloaded batches: ours includes decoding, tokenizing, writing parts, checksums and
  assembling; the peer runs the forward pass alone. The ratio is peer seconds / our seconds: 1 would be no overhead. On
  a CPU twice: the loop as one writes it, and the loop with its memory kept from batch to batch, as ours has it, which
  is all that the network itself can do.
- Against the loop of the usual tutorial on `tweets`: one text at a time, padded to 128 tokens
  (``padding="max_length"``); and the same without padding.
- Several outputs in one pass against a pass for each.
- thingsvision and CLIP_benchmark, each in a process of its own, if ``--peers-python`` names a Python that has them.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from harness import Row, arguments, compared, paired, report
from PIL import Image
from sklearn.datasets import load_sample_images

from grobust.data.catalog import load_dataset
from grobust.data.dataset import GroupedDataset
from grobust.data.tables import ImageFiles, stratified_subset
from grobust.features._batches import load_batches
from grobust.features._plan import decode_side
from grobust.features.extract import ExtractSettings, extract_features, extract_together, planned_parts
from grobust.features.store import FeatureStore
from grobust.groups import Groups
from grobust.kept_memory import kept_memory
from grobust.models.backbone import Backbone, Pool
from grobust.models.backbones import load_backbone, load_backbones

HERE = Path(__file__).parent
MINILM = "packaged:all-MiniLM-L6-v2"
CLIP = "open_clip:ViT-B-32@random"
# What tutorials pad to.
TUTORIAL_TOKENS = 128
PEERS = ("thingsvision", "CLIP_benchmark")
NO_PEERS = "give --peers-python PATH, a Python that has it"


def main() -> None:
    args = arguments(__doc__ or "", peers=True)
    full = args.size == "full"
    pairs = 5 if full else 1
    skipped = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def bare(
            data: Callable[[], GroupedDataset], spec: str, size: int | None, most: int = pairs
        ) -> Callable[[str], list[Row]]:
            return lambda name: _bare(
                name, data(), load_backbone(spec, device=args.device, image_size=size), min(pairs, most)
            )

        def peer(who: str, spec: str) -> Callable[[str], list[Row]]:
            return lambda name: _peer(name, some_photos(96), folder, args.peers_python, 2 if full else 1, who, spec)

        def some_photos(n: int, size: tuple[int, int] = (512, 384)) -> ImageFiles:
            return photos(folder / f"{n}-{size[0]}", n if full else 8, size if full else (96, 72))

        def some(name: str, n: int) -> GroupedDataset:
            return stratified_subset(load_dataset(name), n if full else 24, seed=1)

        cases: dict[str, Callable[[str], list[Row]]] = {
            "digits, 1,200 rows, efficientnet_lite0 at 96": bare(
                lambda: some("digits", 1200), "packaged:efficientnet_lite0", 96
            ),
            "photos, 128 rows, efficientnet_lite0 at 224": bare(
                lambda: some_photos(128), "packaged:efficientnet_lite0", 224 if full else 64
            ),
            "photos, 64 rows, ResNet-50": bare(lambda: some_photos(64), "timm:resnet50@random", None if full else 64),
            "photos, 64 rows, ViT-B/16": bare(
                lambda: some_photos(64),
                "timm:vit_base_patch16_224@random" if full else "timm:test_vit@random",
                None,
                most=2,
            ),
            "tweets, 600 rows, MiniLM": bare(lambda: some("tweets", 600), MINILM, None),
            "tweets, 200 texts, padded to 128": lambda name: _tutorial(
                name, some("tweets", 200), "one text at a time, padded", "max_length", pairs
            ),
            "tweets, 200 texts, not padded": lambda name: _tutorial(
                name, some("tweets", 200), "one text at a time", False, pairs
            ),
            "photos, 64 rows, three outputs of a ViT": lambda name: _together(name, some_photos(64), full, pairs),
            "photos of 1,024 x 768, 128 rows, --fast-decode": lambda name: _fast(
                name, some_photos(128, (1024, 768)), full, pairs
            ),
            "photos, 96 rows, ResNet-18, thingsvision": peer("thingsvision", "torchvision:resnet18@random"),
            "photos, 96 rows, CLIP ViT-B/32, CLIP_benchmark's 4 loaders": peer("clip_benchmark", CLIP),
            "photos, 96 rows, CLIP ViT-B/32, CLIP_benchmark, no loaders": peer("clip_benchmark_alone", CLIP),
        }
        rows = []
        for name, case in cases.items():
            if args.only not in name:
                continue
            if any(package in name for package in PEERS) and args.peers_python is None:
                skipped[name] = NO_PEERS
            else:
                rows += case(name)
    report("extract", rows, args, skipped=skipped)


def photos(folder: Path, n: int, size: tuple[int, int]) -> ImageFiles:
    """n JPEG files: parts of scikit-learn's two photos."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    names = tuple(f"{i:05d}.jpg" for i in range(n))
    for i, name in enumerate(names):
        photo = sources[i % 2]
        w, h = 400, 300
        left, top = int(rng.integers(photo.width - w)), int(rng.integers(photo.height - h))
        photo.crop((left, top, left + w, top + h)).resize(size, Image.Resampling.BICUBIC).save(
            folder / name, "JPEG", quality=92
        )
    zeros = np.zeros(n, dtype=np.int64)
    return ImageFiles("photos", Groups.from_arrays(zeros, zeros), zeros.astype(np.int8), names, folder)


def _bare(name: str, data: GroupedDataset, backbone: Backbone, pairs: int) -> list[Row]:
    settings = ExtractSettings(batch_size=64 if len(data) > 256 else 32)
    device = next(iter(backbone.network.parameters())).device
    order = [rows for part in planned_parts(data, settings, backbone) for rows in part]
    batches = []
    for rows in order:
        batch = backbone.collate([data[int(row)] for row in rows])
        for key, tensor in batch.items():
            moved = tensor.to(device)
            batch[key] = moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved
        batches.append(batch)

    def bare() -> list[torch.Tensor]:
        return [backbone.encode(batch).float().cpu() for batch in batches]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.h5"
        extract_features(data, backbone, path, settings=settings)
        expected = torch.cat(bare()).numpy()
        np.testing.assert_allclose(FeatureStore(path).read()[np.concatenate(order)], expected, rtol=1e-4, atol=1e-4)

        def ours() -> None:
            path.unlink()
            extract_features(data, backbone, path, settings=settings)

        def kept() -> None:
            with kept_memory():
                bare()

        peers = {"bare network, preloaded": bare}
        if device.type == "cpu":
            peers["the same, its memory kept"] = kept
        return compared(name, ours, peers, answer="same features", pairs=pairs, warm=False)


def _tutorial(name: str, data: GroupedDataset, peer: str, padding: str | bool, pairs: int) -> list[Row]:
    backbone = load_backbone(MINILM)
    network, tokenizer = backbone.network, backbone.collate.tokenizer  # type: ignore[attr-defined]

    def loop() -> np.ndarray:
        found = []
        for row in range(len(data)):
            batch = tokenizer(
                data[row], padding=padding, truncation=True, max_length=TUTORIAL_TOKENS, return_tensors="pt"
            )
            with torch.no_grad():
                hidden = network(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).float()
            found.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(found)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.h5"
        extract_features(data, backbone, path)
        np.testing.assert_allclose(FeatureStore(path).read(), loop(), rtol=1e-3, atol=1e-4)

        def ours() -> None:
            path.unlink()
            extract_features(data, backbone, path)

        return [paired(name, ours, peer, loop, answer="same features", pairs=min(pairs, 3), warm=False)]


def _together(name: str, data: GroupedDataset, full: bool, pairs: int) -> list[Row]:
    spec = "timm:vit_small_patch16_224@random" if full else "timm:test_vit@random"
    backbones = load_backbones(spec, pools=[Pool.GAP, Pool.CLS, Pool.MODEL])
    settings = ExtractSettings(batch_size=32)
    with tempfile.TemporaryDirectory() as folder:
        many = [Path(folder) / f"many{i}.h5" for i in range(3)]
        each = [Path(folder) / f"each{i}.h5" for i in range(3)]

        def ours() -> None:
            extract_together(data, backbones, many, settings=settings, overwrite=True)

        def passes() -> None:
            for backbone, path in zip(backbones, each, strict=True):
                extract_features(data, backbone, path, settings=settings, overwrite=True)

        ours()
        passes()
        for a, b in zip(many, each, strict=True):
            np.testing.assert_array_equal(FeatureStore(a).read(), FeatureStore(b).read())
        return [paired(name, ours, "a pass for each", passes, answer="same bytes", pairs=min(pairs, 3), warm=False)]


def _fast(name: str, data: GroupedDataset, full: bool, pairs: int) -> list[Row]:
    """Reading and resizing, as the loader does it; whole images against the decoder's smaller ones."""
    backbone = load_backbone("packaged:efficientnet_lite0", image_size=224 if full else 32)
    side = decode_side(backbone, ExtractSettings(fast_decode=True))
    batches = [np.arange(start, min(start + 32, len(data))) for start in range(0, len(data), 32)]

    def read(side: int | None) -> np.ndarray:
        found = load_batches(data, backbone.collate, batches, workers=0, threads=torch.get_num_threads(), side=side)
        return np.concatenate([batch.tensors["pixels"].numpy() for batch in found])

    # In grey levels of 255.
    levels = 255 * 0.5 * np.abs(read(side) - read(None))
    assert levels.mean() < 4, f"mean difference {levels.mean():.2f}"
    return [paired(
        name, lambda: read(side), "whole images", lambda: read(None), pairs=pairs,
        answer=f"pixels differ by {levels.mean():.2f} of 255 in the mean",
    )]  # fmt: skip


def _peer(name: str, data: ImageFiles, folder: Path, python: Path, pairs: int, peer: str, spec: str) -> list[Row]:
    """Two processes in turn; seconds without start and imports, peak memory of the whole process."""
    weights = dict(load_backbone(spec).network.state_dict())
    if peer == "thingsvision":
        # Its network has its classifier; it is not part of the feature.
        weights |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(weights, folder / "weights.pt")

    def child(executable: str, who: str, extra: dict[str, str]) -> dict[str, float]:
        out = folder / f"{who}.npy"
        out.with_suffix(".h5").unlink(missing_ok=True)
        command = [
            executable,
            str(HERE / "extract_peers.py"),
            who,
            str(data.root),
            spec,
            str(folder / "weights.pt"),
            str(out),
        ]
        finished = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | extra)
        if finished.returncode != 0:
            raise RuntimeError(f"{who} failed:\n{finished.stderr[-2000:]}")
        found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
        return found

    runs = [(child(sys.executable, "grobust", {}), child(str(python), peer, {"PYTHONPATH": ""})) for _ in range(pairs)]
    ours, theirs = (np.load(folder / f"{who}.npy") for who in ("grobust", peer))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    peaks = [max(run[i]["peak_bytes"] for run in runs) / 1e6 for i in (0, 1)]
    return [Row(
        name=name,
        ours_seconds=median(a["seconds"] for a, _ in runs),
        peer="thingsvision" if peer == "thingsvision" else "CLIP_benchmark, its check for a GPU passed by",
        peer_seconds=median(b["seconds"] for _, b in runs),
        ratio=median(b["seconds"] / a["seconds"] for a, b in runs),
        pairs=pairs,
        answer=f"same features; peak memory {peaks[0]:.0f} MB, theirs {peaks[1]:.0f} MB",
    )]  # fmt: skip


if __name__ == "__main__":
    main()
