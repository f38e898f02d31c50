"""Records, a store, heads and texts whose names and texts try to be markup."""

import copy
import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from helpers import make_plan

from grobust.data.metadata_csv import load_metadata_csv
from grobust.experiments.config import ProbeConfig, SpectrumConfig, TrajectoryConfig
from grobust.experiments.probe import run_probe
from grobust.experiments.records import read_records
from grobust.experiments.spectrum import run_spectrum
from grobust.experiments.trajectory import run_trajectories
from grobust.features.parts import PartsWriter, StorePlan
from grobust.settings import SGD, BalanceMethod

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
CLASSES = ("a<b>&amp;", HOSTILE)
ATTRIBUTES = ('p"q', "r&s' onload='window.pwned=1'")


@dataclass(frozen=True)
class World:
    """Paths of everything that a page is made of."""

    records: Path
    store: Path
    heads: Path
    data_dir: Path


def make_world(folder: Path) -> World:
    """Texts in a CSV; features with a planted attribute; records of probes, curves and spectra."""
    rng = np.random.default_rng(0)
    sizes = {(0, 0): 300, (0, 1): 40, (1, 0): 40, (1, 1): 200}
    cells = np.array([cell for cell, n in sizes.items() for _ in range(n)])
    cells = cells[rng.permutation(len(cells))]
    data_dir = folder / "texts"
    data_dir.mkdir()
    with (data_dir / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "y", "a", "split"])
        for i, (y, a) in enumerate(cells.tolist()):
            text = f"{HOSTILE} text {i}" if i % 2 else f"plain text {i}\nwith a second line"
            writer.writerow([text, CLASSES[y], ATTRIBUTES[a], ("train", "train", "val", "test")[i % 4]])
    dataset = load_metadata_csv(data_dir)
    labels, attributes = dataset.groups.labels, dataset.groups.attributes
    features = rng.standard_normal((len(labels), 8)).astype(np.float32)
    features[:, 0] += 1.2 * labels
    features[:, 1] += 2.0 * attributes
    provenance = replace(make_plan().provenance, dataset=dataset.name, dataset_digest=dataset.digest, backbone=HOSTILE)
    store, records, heads = folder / "f.h5", folder / "records.jsonl", folder / "heads.safetensors"
    plan = StorePlan(provenance, dataset.groups, np.asarray(dataset.split), dataset.sample_ids, 8)
    with PartsWriter(store, plan) as parts:
        parts.write(np.arange(len(labels)), features)
        parts.finish()
    methods = tuple(BalanceMethod)
    run_probe(ProbeConfig(store=store, balance=methods, seeds=(1, 2), l2=(1e-2,), records=records, save=heads))
    run_trajectories(
        TrajectoryConfig(store=store, balance=methods[:3], seeds=(1, 2), sgd=SGD(epochs=6), records=records)
    )
    run_spectrum(
        SpectrumConfig(
            store=store, null=50, interval=20, permutations=0, diagnostics=None, heads=heads, records=records
        )
    )
    return World(records, store, heads, data_dir)


def many_records(world: World, n: int) -> list[dict[str, Any]]:
    """n records: those of the world again and again, as more seeds and data sets."""
    real = read_records(world.records)
    found = []
    for i in range(n):
        record = copy.deepcopy(real[i % len(real)])
        record["seed"] = 100 + i // len(real)
        record["provenance"]["dataset"] = f"data {(i // len(real)) % 4}"
        if "dataset" in record["results"]:
            record["results"] |= {"dataset": record["provenance"]["dataset"], "store": f"seed{i}.h5"}
        if "seed" in record["results"]:
            record["results"]["seed"] = record["seed"]
        found.append(record)
    return found
