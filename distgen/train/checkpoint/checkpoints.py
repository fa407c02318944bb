"""The checkpoints of a training: copied on its path, written beside it, published by one act, and how many are kept."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Thread
from typing import Any, Protocol, TypeVar

from blake3 import blake3
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future as TorchFuture

from distgen.config import TIMEOUTS
from distgen.errors import CheckpointError, DistgenError
from distgen.ingest.objects import Place
from distgen.train.checkpoint.format import FORMAT, TENSORS, state_json, tensors_json
from distgen.train.checkpoint.reading import Checkpoint, cause, open_checkpoint
from distgen.train.checkpoint.staging import Shares, Staged, Staging
from distgen.train.checkpoint.storage import Storage, storage
from distgen.train.checkpoint.team import Team
from distgen.train.worker import Worker

T = TypeVar("T")
log = logging.getLogger("distgen")


class Asked(Protocol):
    """Whoever finds out what checkpoints are worth."""

    def ask(self, step: int, path: str) -> None:
        """A checkpoint is there."""

    @property
    def asked(self) -> set[int]:
        """Which are still needed."""


class Checkpoints:
    """The checkpoints of a training; written while it goes on. All workers make one, and call each method together.

    Args:
        folder: DIR/checkpoints, or the place that stands for it.
        worker: this one.
        keep: how many of the newest stay.
        keep_best: how many of those with the lowest score stay.
        asked: who finds out scores while training goes on.
    """

    def __init__(self, folder: Place, worker: Worker, *, keep: int, keep_best: int, asked: Asked | None = None):
        self._folder, self._keep, self._keep_best, self._asked = folder, keep, keep_best, asked
        self._storage, self._team = storage(folder), Team.of_all()
        self._shares, self._staging = Shares(self._team), Staging(pinned=worker.device.type == "cuda")
        self._writing: Future[str] | None = None
        self._rescoring: list[Future[None]] = []
        self._alone = Lock()
        self._newest: str | None = None
        self._last = 0  # its step
        self._scores: dict[int, float] = {}
        # Said in a thread of its own, where a filter for a while would be one for all.
        warnings.filterwarnings("ignore", "torch.distributed is disabled")

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, the same on all workers, None if there is none; damaged ones are passed over with a
        warning. Every file is read; what dead trainings have left half done is removed.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        self._team.first(self._storage.clear)
        found = _newest(self._storage, self._folder, self._team, lambda it: it.check(self._team.rank, self._team.size))
        self._newest, self._last = (str(found.path), found.state["step"]) if found else (None, 0)
        return found

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any], score: float | None) -> None:
        """Copy tensors and return; the copies are then written, and published when all workers' are. If the checkpoint
        before is still being written, that is waited for.

        Args:
            tensors: by name; plain ones are alike on all workers, of DTensors each has its part.
            state: plain data; must have "step".
            score: what `best` is the lowest of; None: whoever was given is asked for it, and calls `rescore`.

        Raises:
            CheckpointError: that one could not be written.
        """
        self.wait()
        staged = self._staging.stage(self._shares.mine(tensors), tensors)
        self._writing = self._beside(lambda: self._write(staged, state, score))

    def unscored(self) -> list[tuple[int, str]]:
        """Steps up to that of `newest`, and where their checkpoints are, of which nobody knows what they are worth; the
        oldest first. For the leading worker alone."""
        steps = [step for step in reversed(self._storage.steps()) if step <= self._last]
        return [(step, str(self._storage.path(step))) for step in steps if math.isinf(self._score(step))]

    def rescore(self, step: int, score: float) -> None:
        """Say what a checkpoint turned out to be worth, in good time before `wait`; for the leading worker alone."""
        self._scores[step] = score
        self._rescoring.append(self._beside(lambda: self._rescore(step, score)))

    def wait(self) -> str | None:
        """Return when nothing is being written any more; where the newest whole checkpoint is, None if there is none.

        Raises:
            CheckpointError: it could not be written.
        """
        rescoring, self._rescoring = self._rescoring, []
        writing, self._writing = self._writing, None
        try:
            for done in rescoring:
                done.result(TIMEOUTS["checkpoint"])
            if writing is not None:
                self._newest = writing.result(TIMEOUTS["checkpoint"])
        except TimeoutError:
            raise CheckpointError(
                f"a checkpoint was not written to {self._folder} in {TIMEOUTS['checkpoint']:.0f} s; is what keeps it "
                "too slow, or does a worker not answer?"
            ) from None
        return self._newest

    # ---- in a thread of its own

    def _beside(self, task: Callable[[], T]) -> Future[T]:
        """What becomes of a task in a thread, one at a time. One process that ends waits for it; of several, some may be gone."""
        found: Future[T] = Future()

        def run() -> None:
            try:
                with self._alone:
                    found.set_result(task())
            except BaseException as error:
                found.set_exception(error)

        Thread(target=run, name="distgen-checkpoint", daemon=self._team.size > 1).start()
        return found

    def _write(self, staged: list[Staged], state: dict[str, Any], score: float | None) -> str:
        self._staging.wait()
        writer = _Writer(
            self._storage, staged, state | {"score": None if score is None or math.isinf(score) else score}
        )
        group = self._team.group
        try:
            save({}, storage_writer=writer, planner=_Planner(staged), process_group=group, no_dist=group is None)
            self._scores[state["step"]] = math.inf if score is None else score
            self._team.first(lambda: self._retain(state["step"]))
        except CheckpointError:
            raise
        except (Exception, CheckpointException) as error:  # the latter is none of the former
            if self._team.leads:
                writer.discard()
            if isinstance(error, CheckpointException):
                raise cause(error) from None
            raise CheckpointError(f"a checkpoint could not be written to {self._folder}: {error}") from error
        path = str(self._storage.path(state["step"]))
        if score is None and self._asked and self._team.leads:
            self._asked.ask(state["step"], path)
        return path

    def _rescore(self, step: int, score: float) -> None:
        try:
            state = open_checkpoint(self._storage.path(step)).state
            self._storage.replace_state(step, state_json(state | {"score": score}))
            self._retain(self._last)
        except DistgenError as error:  # also of an object store that does not answer: training goes on
            log.warning("%s", error)

    def _retain(self, step: int) -> None:
        """Let `best` and `last` lead to the right ones, and then remove what nothing leads to and nobody wants."""
        # Newer ones are of a training that went on from before them: damaged, and passed over.
        there = self._storage.steps()
        steps = [number for number in there if number <= step]
        self._last = step
        for number in steps:
            if number not in self._scores:
                self._scores[number] = self._score(number)
        best = sorted(steps, key=lambda number: (self._scores[number], -number))
        self._storage.point("best", best[0])
        self._storage.point("last", step)
        needed = self._asked.asked if self._asked else set()
        for number in set(there) - set(steps[: self._keep]) - set(best[: self._keep_best]) - needed:
            self._storage.remove(number)

    def _score(self, step: int) -> float:
        try:
            score = open_checkpoint(self._storage.path(step)).state["score"]
        except CheckpointError:
            return math.inf
        return math.inf if score is None else float(score)


def newest(folder: Place, *, deep: bool = True) -> Checkpoint | None:
    """See `Checkpoints.newest`; for one process, and nothing is removed.

    Args:
        folder: where the checkpoints are.
        deep: whether the content of all files is checked, or `state.json` alone.
    """
    return _newest(storage(folder), folder, Team(), Checkpoint.check if deep else lambda found: None)


def _newest(there: Storage, folder: Place, team: Team, check: Callable[[Checkpoint], None]) -> Checkpoint | None:
    steps = team.first(there.steps)
    for step in steps:
        try:
            first = team.first(lambda step=step: open_checkpoint(there.path(step)))  # type: ignore[misc]
            found = Checkpoint(first.path, first.state, team)
            team.all(lambda found=found: check(found))  # type: ignore[misc]
            return found
        except CheckpointError as error:
            if team.leads:
                log.warning("%s; looking at the one before", error)
    if steps:
        raise CheckpointError(
            f"none of the {len(steps)} checkpoints in {folder} is whole; train anew with another --out"
        )
    return None


# ---- what torch.distributed.checkpoint asks for --------------------------------------------------


class _Planner(DefaultSavePlanner):
    """Saves what was staged: which worker writes what was known before."""

    def __init__(self, staged: list[Staged]):
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._staged = staged

    def create_local_plan(self) -> SavePlan:
        return SavePlan([piece.item for file in self._staged for piece in file.pieces])


class _Writer(StorageWriter):
    """Writes staged files into a draft, and makes it a checkpoint when all workers have."""

    def __init__(self, there: Storage, staged: list[Staged], state: dict[str, Any]):
        self._storage, self._staged, self._state, self._draft = there, staged, state, ""

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._rank = kwargs["rank"]

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self._draft = self._storage.begin(self._state["step"])
        return [SavePlan([], storage_data=self._draft) for _ in plans]  # each knows its items

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        results: TorchFuture[list[WriteResult]] = TorchFuture()
        with ThreadPoolExecutor(self._storage.writes, thread_name_prefix="distgen-write") as pool:
            made = pool.map(lambda numbered: self._file(plan.storage_data, *numbered), enumerate(self._staged))
            results.set_result([result for file in made for result in file])
        return results

    def _file(self, draft: str, number: int, staged: Staged) -> list[WriteResult]:
        name = f"shard-{self._rank:05d}-{number:04d}.safetensors"
        name = self._storage.write(draft, name, staged.content)
        file = name, len(staged.content), blake3(staged.content).hexdigest()
        return [WriteResult(piece.item.index, piece.bytes, file) for piece in staged.pieces]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for worker in results for result in worker]
        files = {name: (size, checksum) for name, size, checksum in (result.storage_data for result in written)}
        table = tensors_json(metadata, {result.index: result.storage_data[0] for result in written})
        name = self._storage.write(self._draft, TENSORS, memoryview(table))
        files[name] = len(table), blake3(table).hexdigest()
        state = self._state | {"format": FORMAT, "files": files, "tensors": name}
        sizes = {name: size for name, (size, _) in files.items()}
        self._storage.commit(self._draft, self._state["step"], sizes, state_json(state))

    def discard(self) -> None:
        """Remove what is no checkpoint."""
        if self._draft:
            self._storage.discard(self._draft)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True
