"""The device that runs CUDA sources on the CPU, compiled once."""

from pathlib import Path

import pytest
from shim_device import ShimDevice


@pytest.fixture(scope="session")
def shim_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def device(request: pytest.FixtureRequest, shim_folder: Path) -> ShimDevice:
    return ShimDevice(shim_folder, backwards=request.param)
