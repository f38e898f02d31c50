"""Devices for the kernels: the CUDA sources compiled for the CPU, once, and the GPU where there is one."""

from pathlib import Path

import pytest
from shim_device import ShimDevice

from grobust.probe._cuda import cuda
from grobust.probe._device import Device


@pytest.fixture(scope="session")
def shim_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(params=["forwards", "backwards", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, shim_folder: Path) -> Device:
    if request.param == "cuda":
        return cuda()
    return ShimDevice(shim_folder, backwards=request.param == "backwards")
