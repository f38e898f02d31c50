"""Extraction overhead: rows per second of `extract_features` against the bare network on preloaded batches.

Ours includes decoding, tokenizing, writing parts, checksums and assembling; the peer runs the forward pass alone.
The ratio is peer seconds / our seconds: 1 would be no overhead.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import Row, arguments, paired, report

from grobust.data.catalog import load_dataset
from grobust.data.tables import stratified_subset
from grobust.features.extract import ExtractSettings, extract_features, planned_parts
from grobust.features.store import FeatureStore
from grobust.models.backbones import load_backbone

CASES = (("digits", "packaged:efficientnet_lite0", 96, 2400), ("tweets", "packaged:all-MiniLM-L6-v2", None, 800))


def compare(name: str, spec: str, image_size: int | None, n: int, device: str, pairs: int) -> Row:
    data = stratified_subset(load_dataset(name), n, seed=1)
    backbone = load_backbone(spec, device=device, image_size=image_size)
    settings = ExtractSettings()
    order = [rows for part in planned_parts(data, settings) for rows in part]
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

        return paired(
            f"{name}, {n} rows, {spec}", ours, "bare network, preloaded", bare, answer="same features", pairs=pairs
        )


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    rows = [compare(d, b, s, n if full else 64, args.device, 5 if full else 1) for d, b, s, n in CASES]
    report("extract", rows, args)


if __name__ == "__main__":
    main()
