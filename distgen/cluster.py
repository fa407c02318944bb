"""The only door to Ray below `train/`."""

from __future__ import annotations

import os

from distgen.config import TIMEOUTS
from distgen.errors import TrainError


def connect(cpus: int) -> None:
    """Join the Ray cluster named by RAY_ADDRESS, or start one on this machine (loopback only).

    Args:
        cpus: processor cores the work needs in all.

    Raises:
        TrainError: Ray could not be started, or the cluster has fewer cores.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_raylet_start_wait_time_s", str(int(TIMEOUTS["cluster_start"])))
        try:
            if os.environ.get("RAY_ADDRESS"):
                ray.init(address="auto", log_to_driver=True)
            else:
                ray.init(
                    num_cpus=max(cpus, os.cpu_count() or 1),
                    include_dashboard=False,
                    log_to_driver=True,
                    _node_ip_address="127.0.0.1",
                )
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise TrainError(f"Ray did not start: {error}") from error
    available = int(ray.cluster_resources().get("CPU", 0))
    if available < cpus:
        raise TrainError(
            f"the run asks for {cpus} cores, the Ray cluster has {available}: lower cluster.workers or cluster.cpus_per_worker"
        )
