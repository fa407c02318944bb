"""The only door to Ray below `train/`."""

from __future__ import annotations

import logging
import os
from typing import Any

from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, TrainError


def connect(cpus: int) -> None:
    """Join the Ray cluster named by RAY_ADDRESS, or start one on this machine (loopback only).

    Args:
        cpus: processor cores the work needs in all.

    Raises:
        ConfigError: there are fewer cores. TrainError: Ray could not be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(TIMEOUTS["worker_start"]))
    verbose = logging.getLogger("distgen").isEnabledFor(logging.INFO)
    level = logging.INFO if verbose else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    import ray

    if not ray.is_initialized():
        options: dict[str, Any] = {"address": "auto"}
        if not os.environ.get("RAY_ADDRESS"):
            here = os.cpu_count() or 1
            if here < cpus:
                raise _too_few(cpus, here)
            # Its name speaks of other systems; what it does anywhere is to keep a one-machine cluster on loopback.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            options = {"num_cpus": here, "include_dashboard": False}
        try:
            ray.init(**options, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise TrainError(f"Ray did not start: {error}") from error
    available = int(ray.cluster_resources().get("CPU", 0))
    if available < cpus:
        raise _too_few(cpus, available)


def _too_few(asked: int, available: int) -> ConfigError:
    return ConfigError(
        f"the run asks for {asked} cores, there are {available}: lower cluster.workers or cluster.cpus_per_worker"
    )
