"""Extraction on a GPU: images and tokens per second against the bare loop, and against the card's matrix products.

Answers are checked first: features of a few rows against the same network in float32. Weights are random, inputs are
made here: rates depend on neither. The bare loop has its batches on the device already. The ceiling is the card's own
rate of a large product in the same precision, measured in the same run; a row's `answer` says what share of it the
network's multiplications reach. At the tiny size the same code runs small networks on whatever device is given, so that
it cannot rot; numbers are worth taking at full size on a GPU only.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Row, arguments, paired, report, seconds
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, BertTokenizerFast

from grobust.data.dataset import GroupedDataset
from grobust.data.tables import ImagePixels, Texts
from grobust.features.extract import ExtractSettings, Precision, extract_features, planned_parts
from grobust.features.store import FeatureStore
from grobust.groups import Groups
from grobust.models.backbone import Backbone
from grobust.models.backbones import load_backbone

NO_GPU = "no GPU: run with --device cuda"
IMAGES = {
    "ResNet-50": ("timm:resnet50@random", "timm:test_resnet@random"),
    "ConvNeXtV2-Base": ("timm:convnextv2_base@random", "timm:test_convnext@random"),
    "ViT-B/32": ("open_clip:ViT-B-32@random", "timm:test_vit@random"),
}
PRODUCT = 8192
WORDS = 2000


@dataclass(frozen=True)
class Case:
    """What a row runs."""

    name: str
    data: GroupedDataset
    backbone: Backbone
    settings: ExtractSettings
    unit: str


def main() -> None:
    args = arguments(__doc__ or "")
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    full = args.size == "full"
    with tempfile.TemporaryDirectory() as folder:
        for name in (*IMAGES, "BERT-base"):
            if args.only not in name:
                continue
            if full and args.device == "cpu":
                skipped[name] = NO_GPU
                continue
            make = _texts if name == "BERT-base" else _images
            rows.append(_row(make(name, args, full, Path(folder)), args, Path(folder)))
    report("extract_gpu", rows, args, skipped=skipped)


def _images(name: str, args: argparse.Namespace, full: bool, folder: Path) -> Case:
    backbone = load_backbone(IMAGES[name][0 if full else 1], device=args.device)
    n, batch = (8192, 256) if full else (12, 4)
    rng = np.random.default_rng(1)
    size = backbone.image.size if backbone.image is not None else (224, 224)
    zeros = np.zeros(n, dtype=np.int64)
    # A few images, again and again: rates do not depend on what they show.
    pixels = rng.integers(0, 256, (16, *size), dtype=np.uint8)[np.arange(n) % 16]
    data = ImagePixels(
        "noise", Groups.from_arrays(zeros, zeros), zeros.astype(np.int8), tuple(map(str, range(n))), pixels,
        ((255, 200, 100),),
    )  # fmt: skip
    settings = ExtractSettings(
        batch_size=batch, precision=Precision.BFLOAT16, workers=14 if full else 0, dtype="float16"
    )
    return Case(name, data, backbone, settings, "images")


def _texts(name: str, args: argparse.Namespace, full: bool, folder: Path) -> Case:
    """BERT with a vocabulary of its own and texts of 16 to 200 words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    small = {} if full else {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64
    }  # fmt: skip
    BertModel(BertConfig(vocab_size=30_522 if full else len(words), **small)).save_pretrained(folder)
    backbone = load_backbone(f"transformers:{folder}", device=args.device)
    n, batch = (16_384, 256) if full else (12, 4)
    rng = np.random.default_rng(1)
    texts = tuple(" ".join(f"w{i}" for i in rng.integers(0, WORDS, rng.integers(16, 200))) for _ in range(n))
    zeros = np.zeros(n, dtype=np.int64)
    data = Texts("words", Groups.from_arrays(zeros, zeros), zeros.astype(np.int8), tuple(map(str, range(n))), texts)
    return Case(name, data, backbone, ExtractSettings(batch_size=batch, precision=Precision.BFLOAT16), "tokens")


def _row(case: Case, args: argparse.Namespace, folder: Path) -> Row:
    backbone, settings = case.backbone, case.settings
    order = [rows for part in planned_parts(case.data, settings, backbone) for rows in part]
    # So many batches as fit the device beside the network, over and over.
    kept = [_moved(backbone.collate([case.data[int(row)] for row in rows]), args.device) for rows in order[:16]]
    shapes = [kept[i % len(kept)] for i in range(len(order))] if case.unit == "images" else [
        _moved(backbone.collate([case.data[int(row)] for row in rows]), args.device) for rows in order
    ]  # fmt: skip
    units = len(case.data) if case.unit == "images" else sum(int(b["attention_mask"].sum()) for b in shapes)
    path = folder / "f.h5"

    def bare() -> None:
        for batch in shapes:
            with torch.autocast(args.device, torch.bfloat16):
                backbone.encode(batch)
        _wait(args.device)

    def ours() -> None:
        path.unlink(missing_ok=True)
        extract_features(case.data, backbone, path, settings=settings)

    ours()
    with FeatureStore(path) as store:
        found = store.read()[order[0]].astype(np.float32)
    expected = backbone.encode(kept[0]).float().cpu().numpy()
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert error < 0.1, f"{case.name}: features are {error:.3f} from those in float32"
    row = paired(case.name, ours, "bare loop, preloaded", bare, answer="", pairs=3 if args.size == "full" else 1)
    # Not inference_mode, in which products do not reach the counter one by one.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.forward(backbone.network, kept[0])
    flops = counter.get_total_flops() / max(1, _units(kept[0], case.unit)) * units
    reached = flops / row.peer_seconds / _product_rate(args)
    answer = (
        f"within {error:.3f} of float32; {units / row.ours_seconds:.0f} {case.unit}/s, bare "
        f"{units / row.peer_seconds:.0f}; the bare loop reaches {100 * reached:.0f}% of the card's product"
    )
    return Row(**{**row.__dict__, "answer": answer})


def _units(batch: dict[str, torch.Tensor], unit: str) -> int:
    return len(batch["pixels"]) if unit == "images" else int(batch["attention_mask"].sum())


def _moved(batch: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    moved = {name: tensor.to(device) for name, tensor in batch.items()}
    return {k: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for k, t in moved.items()}


def _product_rate(args: argparse.Namespace) -> float:
    """Floating-point operations per second of a large product in bfloat16."""
    n = PRODUCT if args.size == "full" else 64
    a, b = (torch.randn(n, n, device=args.device, dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        for _ in range(10):
            a @ b
        _wait(args.device)

    product()
    return 10 * 2 * n**3 / min(seconds(product) for _ in range(3))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
