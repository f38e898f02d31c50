"""Reading a store: widening float16, and verified reads against reading the raw bytes."""

import tempfile
from pathlib import Path

import numpy as np
from harness import arguments, paired, report

from grobust.features._schema import Provenance
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.features.widen import to_float32
from grobust.groups import Groups


def main() -> None:
    args = arguments(__doc__ or "")
    n, dim = (100_000, 768) if args.size == "full" else (1000, 64)
    half = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32).astype(np.float16)
    np.testing.assert_array_equal(to_float32(half), half.astype(np.float32))
    rows = [
        paired("float16 to float32", lambda: to_float32(half), "numpy astype", lambda: half.astype(np.float32),
               answer="bit for bit")
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.h5"
        provenance = Provenance("b", "w", "p", "model", "float32", "float32", "d", "m")
        plan = StorePlan(
            provenance, Groups.from_arrays(np.arange(n) % 2), np.zeros(n, np.int8), tuple(map(str, range(n))), dim
        )
        with PartsWriter(path, plan) as writer:
            writer.write(np.arange(n), half.astype(np.float32))
            writer.finish()
        store = FeatureStore(path)
        raw = np.memmap(path, mode="r", dtype=np.uint8)
        np.testing.assert_array_equal(store.read(), half.astype(np.float32))
        rows.append(
            paired("read again, float32 view", lambda: np.asarray(store.read()).sum(), "sum of the raw bytes",
                   lambda: raw[: raw.size // 4 * 4].view(np.float32)[-n * dim :].sum(), answer="same array")
        )  # fmt: skip
        rows.append(
            paired("open and verify every byte", lambda: FeatureStore(path).verify(), "read the file",
                   lambda: path.read_bytes(), answer="no damage found")
        )  # fmt: skip
    report("store", rows, args)


if __name__ == "__main__":
    main()
