"""What the answer to a question about a whole window is: the label of a sequence, a pool, bins of a track, a row of a matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from distgen.config import Sample
from distgen.errors import ConfigError, suggest
from distgen.loader.batch import Batch
from distgen.loader.plan import window_of
from distgen.loader.regions import MATRIX, TRACK
from distgen.objectives import along
from distgen.store import collection
from distgen.store.exported import Export
from distgen.store.reader import Store, Track

Stores = Store | Export | collection.Collection
LABELS, POOL = "labels", "pool"


@dataclass(frozen=True)
class Answers:
    """Where the answers of windows are found.

    Args:
        name: of the targets in a batch.
        kind: "binary", "multilabel", "classes" or "regression"; "pool" is classes by their names.
        columns: what each column is, or each class.
        tracks: that the loader must serve.
        window: bases of the windows that have one answer each.
        swap: pairs of columns that change places on the other strand; see `distgen.models.schema.Schema`.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    tracks: tuple[str, ...]
    window: int
    swap: tuple[tuple[str, str], ...] = ()

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The answers (B, columns), or (B,) of classes, and which of them are known: bool, likewise. Rows that only pad a
        batch are not."""
        values, known = batch.targets[self.name], batch.mask[self.name]
        if self.tracks:  # (B, 1, columns): the one bin of each window; its mask may be one for all columns
            values, known = values[:, 0], known[:, 0].expand(values[:, 0].shape)
        counts = batch.weight > 0
        return values, known & (counts if known.ndim == 1 else counts[:, None])


def answers(target: str, store: Stores, data: Sample, kinds: Collection[str]) -> Answers:
    """Find the answers that a question asks for.

    Args:
        target: "labels" of a table of sequences, "pool", "track:NAME" of which a window predicts one bin, or "matrix:NAME",
            at whose regions the windows lie.
        store: what windows are cut out of.
        data: `[data]` of the run.
        kinds: which the question takes.

    Raises:
        ConfigError: there is no such thing, or it is of another kind; names the key.
    """
    store = whole_windows(store, data, "objective.target")
    found = _find(target, store, data)
    if found.kind not in kinds:
        raise ConfigError(
            f'"{target}" are of kind "{found.kind}", and this asks for {" or ".join(kinds)}', key="objective.target"
        )
    return found


def whole_windows(store: Stores, data: Sample, key: str) -> Store:
    """The one store whose windows are asked about, each by itself.

    Raises:
        ConfigError: there are several, or windows are not one row each of one length; names the key, which is that of the
            question where it is the store.
    """
    if not isinstance(store, Store):
        what = "an export" if isinstance(store, Export) else "a collection"
        raise ConfigError(f"{store.path} is {what}: questions about whole windows are asked of one store", key=key)
    if data.packed:
        raise ConfigError("rows of several windows have no answer each. Use false", key="data.packed")
    if data.curriculum:
        raise ConfigError("windows that have one answer are all of one length: leave it out", key="data.curriculum")
    return store


def _find(target: str, store: Store, data: Sample) -> Answers:
    window = window_of(store, data)
    if target == LABELS:
        if not store.is_table:
            problem = f'{store.path} is no table of labelled sequences. Use "pool", "track:NAME" or "matrix:NAME"'
            raise ConfigError(problem, key="objective.target")
        labels = store.labels
        return Answers(LABELS, labels.kind, labels.names, (), window)
    if target == POOL:
        if not data.pool:
            raise ConfigError(
                "there are no [[data.pool]] to tell apart: add two, or use another target", key="objective.target"
            )
        return Answers(POOL, "classes", tuple(pool.name for pool in data.pool), (), window)
    if target.startswith(TRACK):
        return _track(target.removeprefix(TRACK), store, data, window)
    if target.startswith(MATRIX):
        name = target.removeprefix(MATRIX)
        if data.regions is None or data.regions.source != target:
            raise ConfigError(
                f'windows lie elsewhere: add [data.regions] with source = "{target}"', key="objective.target"
            )
        with _said_of("objective.target"):
            return Answers(name, "regression", store.matrix(name).conditions, (), window)
    raise ConfigError(
        f'there is no target "{target}". {suggest(target, (LABELS, POOL, TRACK, MATRIX))}', key="objective.target"
    )


def _track(name: str, store: Store, data: Sample, window: int) -> Answers:
    track = named_track(name, store, "objective.target")
    if data.target_length != track.bin_bp:
        problem = f'one answer for a window is one bin of track "{name}". Use {track.bin_bp}'
        raise ConfigError(problem, key="data.target_length")
    kind = "multilabel" if track.is_classes else "regression"
    return Answers(name, kind, track.columns, (name,), window, along.swapped(track))


def named_track(name: str, store: Stores, key: str) -> Track:
    """A track. Raises ConfigError: there is none; names the key that asks for it."""
    with _said_of(key):
        return store.track(name)


@contextmanager
def _said_of(key: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.problem, key=key) from None
