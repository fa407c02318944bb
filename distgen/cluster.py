"""The only door to Ray below `train/`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, DistgenError, TrainError, some

Task = Callable[[Callable[..., None]], Any]

# Ray waits without a bound, or with one of its own, where these say nothing; its workers inherit them.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(TIMEOUTS["worker_start"]),
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(TIMEOUTS["worker_answer"]),
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(TIMEOUTS["report"]),
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # of workers that have lost one another: they are killed then
}


def connect(cpus: int, address: str = "") -> int:
    """Join a Ray cluster, or start one on this machine (loopback only).

    Args:
        cpus: processor cores the work needs in all.
        address: of the cluster; without one that named by RAY_ADDRESS (as `ray job submit` does), if any.

    Returns:
        The cores there are.

    Raises:
        ConfigError: there are fewer cores. TrainError: Ray could not be started.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise ConfigError(
            f"{address} is an address of Ray's client, which stands outside the cluster: give HOST:PORT of its head, on "
            "one of its machines, or run this there with: ray job submit -- distgen ..."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    verbose = logging.getLogger("distgen").isEnabledFor(logging.INFO)
    level = logging.INFO if verbose else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    import ray

    if not ray.is_initialized():
        options: dict[str, Any] = {"address": address}
        if not address:
            here = os.cpu_count() or 1
            if here < cpus:
                raise _too_few(cpus, here)
            # Its name speaks of other systems; what it does anywhere is to keep a one-machine cluster on loopback.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            options = {"address": "local", "num_cpus": here, "include_dashboard": False}
        try:
            ray.init(**options, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            if address:
                raise TrainError(
                    f"the Ray cluster {address} cannot be joined ({error}): is it running, and of the same version? One that "
                    "was started with a token is joined with the same RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
                ) from error
            raise TrainError(f"Ray did not start: {error}") from error
    available = int(ray.cluster_resources().get("CPU", 0))
    if available < cpus and not _grows():
        raise _too_few(cpus, available)
    return available


def _too_few(asked: int, available: int) -> ConfigError:
    return ConfigError(
        f"{asked} cores are asked for, there are {available}: ask for fewer workers (--workers, or in a run "
        "cluster.workers and cluster.cpus_per_worker)"
    )


def has(resource: str) -> bool:
    """Whether a node of the cluster has any of a resource."""
    return any(node["Resources"].get(resource) for node in _nodes())


def room(each: dict[str, float], placement: str) -> int:
    """How many workers the nodes hold when nothing else runs.

    Args:
        each: the resources of one worker.
        placement: as Ray's placement groups: PACK and SPREAD wish, STRICT_PACK wants one node, STRICT_SPREAD one for each.
    """
    held = [
        min(int(node["Resources"].get(name, 0) / amount + 1e-6) for name, amount in each.items() if amount)
        for node in _nodes()
    ]
    if placement == "STRICT_SPREAD":
        return sum(count > 0 for count in held)
    return max(held, default=0) if placement == "STRICT_PACK" else sum(held)


def expect_room(each: dict[str, float], fewest: int, placement: str) -> None:
    """Find out before anything is written whether workers can ever be placed; a cluster that grows may yet.

    Raises:
        ConfigError: they cannot; says what is asked and what there is.
    """
    if (held := room(each, placement)) < fewest and not _grows():
        raise ConfigError(f"there is room for {held} of {asked(each, fewest, placement)}")


def asked(each: dict[str, float], count: int, placement: str) -> str:
    """Workers in words, and the nodes there are: "2 workers (PACK) with GPU 1 each; 1 nodes: 10.0.0.1 with GPU 0"."""
    import ray

    def listed(resources: dict[str, float]) -> str:
        return ", ".join(f"{name} {resources.get(name, 0):g}" for name in each)

    nodes = [f"{node['NodeManagerAddress']} with {listed(node['Resources'])}" for node in _nodes()]
    return (
        f"{count} workers ({placement}) with {listed(each)} each; the cluster has {len(nodes)} nodes: {some(nodes)}; "
        f"free in all: {listed(ray.available_resources())}"
    )


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _grows() -> bool:
    """Whether an autoscaler may bring more nodes."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() is not None


class Pool:
    """Carries out tasks as Ray tasks on a core each, at most `workers` at a time over all threads that ask.

    A task whose worker or node dies is done again, up to three times: tasks must bear that. They read and write
    files, so every node must see the same ones.

    Args:
        workers: how many; 0 for one on each core of the cluster.

    Raises:
        ConfigError: there are fewer cores than workers. TrainError: Ray could not be started.
    """

    def __init__(self, workers: int = 0):
        cores = connect(max(workers, 1))
        self.workers = workers or cores
        self._free = threading.Semaphore(self.workers)

    def execute(self, tasks: Sequence[Task], progress: Callable[..., None]) -> list[Any]:
        """The results of tasks, in their order; `progress` hears of a task when it is done.

        Raises:
            DistgenError: the first that a task raises, or one that says how a task died.
        """
        import ray

        remote = ray.remote(num_cpus=1, max_retries=3)(_carry_out)
        results: list[Any] = [None] * len(tasks)
        pending: dict[Any, int] = {}
        waiting = list(enumerate(tasks))[::-1]
        try:
            while waiting or pending:
                while waiting and self._free.acquire(blocking=not pending):
                    number, task = waiting.pop()
                    pending[remote.remote(task)] = number
                done, _ = ray.wait(list(pending), num_returns=1)
                for reference in done:
                    number = pending.pop(reference)
                    self._free.release()
                    results[number], amounts = ray.get(reference)
                    progress(*amounts)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, (DistgenError, OSError)) else error from None
        except ray.exceptions.RayError as error:
            raise TrainError(f"a Ray task died and could not be done again: {error}") from error
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
                self._free.release()
        return results


def _carry_out(task: Task) -> tuple[Any, tuple[int, int]]:
    """The result of a task, and what it said of its progress in all."""
    amounts: list[tuple[int, int]] = []
    result = task(lambda amount, read=0: amounts.append((amount, read)))
    return result, (sum(amount for amount, _ in amounts), sum(read for _, read in amounts))
