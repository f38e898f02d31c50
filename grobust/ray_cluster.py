"""The one way into Ray: a cluster at an address, or one of this machine that ends with the work."""

import os
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from grobust.errors import ConfigError

__all__ = ["RayCluster", "join_cluster"]


@dataclass(frozen=True)
class RayCluster:
    """A cluster that was joined.

    Parameters
    ----------
    ray : the library
    cpus, gpus : what it has
    ours : whether it was joined here, and is left with the work; it ends then if it was started here
    """

    ray: Any
    cpus: float
    gpus: float
    ours: bool
    _output: ExitStack = field(default_factory=ExitStack)

    @property
    def about(self) -> str:
        """The cluster, in words."""
        return f"a Ray cluster of {self.cpus:g} cores and {self.gpus:g} GPUs"

    def leave(self) -> None:
        """Let go of it if it was joined here."""
        if self.ours:
            self.ray.shutdown()
        self._output.close()


def join_cluster(address: str | None, *, cpus: int) -> RayCluster:
    """Join the cluster at an address, or start one on this machine with at least so many cores to give.

    Until it is left stdout is stderr: Ray reports dead workers on stdout, which belongs to results.

    Raises
    ------
    ConfigError
        If Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'grobust[ray]'. Or use --engine local.") from None
    # Ray's own choice of an empty GPU list would hide GPUs from tasks that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ours = not ray.is_initialized()
    try:
        if not ray.is_initialized():
            ray.init(
                # None would take $RAY_ADDRESS, or a cluster that runs here.
                address="local" if address is None else address, log_to_driver=False,
                include_dashboard=False if address is None else None,
                configure_logging=False, num_cpus=max(os.cpu_count() or 1, cpus) if address is None else None,
            )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or leave out "
            "--address."
        ) from None
    there = ray.cluster_resources()
    cluster = RayCluster(ray, there.get("CPU", 0), there.get("GPU", 0), ours)
    cluster._output.enter_context(redirect_stdout(sys.stderr))
    return cluster
