"""Fixtures and options that the whole suite shares."""

import os
from collections.abc import Iterator
from pathlib import Path

# No test may reach a model hub; set before any library reads it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Nor write to the user's cache: what wants one sets it.
os.environ["GROBUST_CACHE"] = os.path.join(os.devnull, "no-cache-in-tests")

import hypothesis
import numpy as np
import pytest

from grobust.arrays import cuda_available
from grobust.groups import Groups

# The same examples on every machine and run: a failure can be had again, and no run fails by luck.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="a test marked gpu that cannot run is a failure")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not cuda_available():
        reason = "needs CuPy and a CUDA GPU"
        if item.config.getoption("--require-gpu"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240719)


@pytest.fixture
def tiny_groups(rng: np.random.Generator) -> Groups:
    """Three classes, two attributes; group 5 is empty and group 1 has one row."""
    counts = [40, 1, 25, 10, 30, 0]
    ids = rng.permutation(np.repeat(np.arange(6), counts))
    return Groups.from_arrays(
        ids // 2, ids % 2, class_names=("neg", "neu", "pos"), attribute_names=("plain", "neg-word")
    )


@pytest.fixture(scope="session")
def shim_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the CUDA sources are compiled for the CPU, once."""
    return tmp_path_factory.mktemp("shim")


@pytest.fixture
def one_torch_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here and in processes started from here: sums over other numbers of threads may round otherwise."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
