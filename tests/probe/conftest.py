"""Devices for the kernels: the CUDA sources compiled for the CPU, once, and the GPU where there is one."""

from pathlib import Path

import pytest
from shim_device import ShimDevice

from grobust.device._cuda import cuda
from grobust.device._interface import Device


@pytest.fixture(params=["forwards", "backwards", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, shim_folder: Path) -> Device:
    if request.param == "cuda":
        return cuda()
    return ShimDevice(shim_folder, backwards=request.param == "backwards")
