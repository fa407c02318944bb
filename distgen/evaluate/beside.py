"""What anyone can fit in a minute, beside a network: linear models of what windows, or bins along them, have.

A row is what has one answer: a window, or a bin and the `FLANK` bases on either side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distgen import kernels
from distgen.evaluate.contexts import Contexts
from distgen.evaluate.kept import answers_of
from distgen.evaluate.kmers import Floats, Sparse
from distgen.evaluate.logistic import Answers, Kind, Linear, fit, refit
from distgen.evaluate.metrics import Collector
from distgen.genome import AMBIGUOUS, Bits, Bytes, Int64, Interval
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.objectives import Binned, Objective
from distgen.store.reader import Store

FLANK = 100  # bases that are seen on either side of a bin
_MOST = 60_000_000  # numbers that are fitted to: 360 MB
_PRODUCTS = 3_000_000_000  # likewise times the outputs: a minute
_STRETCH = 1 << 20  # bases that are read together
_LEAST_RATE = 1e-3  # of counts, in units of their mean: its log is finite


@dataclass(frozen=True)
class Features:
    """What a linear model sees of a row.

    Args:
        of: rows of codes (N, W).
        entries: how many numbers of a row are not 0, at most; or what they cost, if that is more.
        scaled: they are divided by their standard deviations, so that a penalty means the same for each.
    """

    of: Callable[[Bytes], Sparse]
    entries: int
    scaled: bool = False


@dataclass(frozen=True)
class Rows:
    """The rows of a batch.

    Args:
        kind: of answers.
        objective: says what is asked.
        bins: of each window; 0 where windows have one answer.
    """

    kind: Kind
    objective: Objective
    bins: int

    @classmethod
    def of(cls, kind: Kind, objective: Objective, loader: Loader) -> Rows:
        """Those of a loader's windows."""
        lengths = loader.lengths[-1]
        target = lengths.window if lengths.target_length is None else lengths.target_length
        return cls(kind, objective, 0 if objective.window is not None else target // objective.bin_bp)

    def count(self, batch: Batch) -> int:
        """How many there are, without those that only pad a batch."""
        return int((batch.weight > 0).sum()) * max(self.bins, 1)

    def width(self, window: int) -> int:
        """Bases of a row, of windows of so many."""
        return self.objective.bin_bp + 2 * FLANK if self.bins else window

    def codes(self, batch: Batch) -> Bytes:
        """Their bases, uint8 (count, width); beyond the window they are ambiguous."""
        codes, size = codes_of(batch), self.objective.bin_bp
        if not self.bins:
            return codes
        margin = (codes.shape[1] - self.bins * size) // 2
        wide = np.pad(codes, ((0, 0), (FLANK, FLANK)), constant_values=AMBIGUOUS)
        stretches = np.lib.stride_tricks.sliding_window_view(wide, size + 2 * FLANK, axis=1)
        chosen: Bytes = stretches[:, margin : margin + self.bins * size : size].reshape(-1, size + 2 * FLANK)
        return chosen

    def answers(self, batch: Batch) -> Answers:
        """Those of the rows."""
        _, target, valid = self.objective.encode(batch, torch.float32, evaluating=True)
        counted = batch.weight > 0
        target, valid = target[counted], valid[counted]
        if self.bins:
            target, valid = target.flatten(0, 1), valid.flatten(0, 1)
        return answers_of(self.kind, target, valid, self.objective.out_channels)


@dataclass(frozen=True)
class Fitted:
    """A linear model of rows.

    Args:
        rows: what it answers for.
        features: what it sees of them.
        linear: on these features.
        windows, of: how many rows it was fitted to, and how many there are.
        logs: the model that it stands beside predicts logs.
    """

    rows: Rows
    features: Features
    linear: Linear
    windows: int
    of: int
    logs: bool = False

    def logits(self, batch: Batch) -> Tensor:
        """Of a batch's windows float32 (n, O, 1), or (n, O, bases) along them, as a network gives them."""
        scores = self.linear.scores(self.features.of(self.rows.codes(batch)))
        if self.logs:
            scores = np.log(np.maximum(scores, _LEAST_RATE))
        found = torch.from_numpy(scores).float()
        if not self.rows.bins:
            return found[..., None]
        assert isinstance(self.rows.objective, Binned)
        return self.rows.objective.logits(found.unflatten(0, (-1, self.rows.bins)))


def codes_of(batch: Batch) -> Bytes:
    """The bases of a batch's windows as uint8 (n, L), without the rows that only pad it."""
    return kernels.tokens(**batch.packed)[batch.weight > 0].cpu().numpy()


def windows(loader: Loader) -> Iterator[Bytes]:
    """The bases of all windows of an epoch, batch by batch."""
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        yield codes_of(batch)


def stretches(store: Store, regions: Int64, k: int) -> Iterator[Bytes]:
    """The bases of flat regions (n, 2) as codes (1, L), some at a time, so that each word of k bases is whole in one of them."""
    for start, end in regions.tolist():
        row = int(store.contigs.locate(start))
        name, offset = store.contigs.names[row], int(store.contigs.offsets[row])
        for first in range(start - offset, end - offset, _STRETCH):
            yield store.codes(Interval(name, first, min(first + _STRETCH + k - 1, end - offset)))[None]


def predict(logits: Callable[[Batch], Tensor], objective: Objective, loader: Loader, keep: Sequence[Collector]) -> None:
    """Give the predictions of one epoch of a loader to collectors, as `measure` gives those of a network.

    Args:
        logits: float32 (n, O, L) or (n, O, 1) of a batch's windows, without rows that only pad it.
        objective: says what is asked.
        loader: of the windows.
        keep: what takes them.
    """
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        _, target, valid = objective.encode(batch, torch.float32, evaluating=True)
        own = logits(batch)
        found = torch.zeros(len(batch), *own.shape[1:])
        found[(batch.weight > 0).cpu()] = own
        for collector in keep:
            collector.update(objective, batch, found.to(loader.device), target, valid)


def count_contexts(objective: Objective, train: Loader, widest: int) -> Contexts:
    """What the words around bases of the training part say of classes along the genome; a bin's are those of its bases."""

    def served() -> Iterator[tuple[Bytes, Bits, Bits]]:
        train.epoch, train.position = 0, 0
        for batch in train:
            _, target_BTC, valid_BT = objective.encode(batch, torch.float32, evaluating=True)
            counted, margin = batch.weight > 0, (batch.length - batch.target_length) // 2
            around = (0, 0, margin, margin)
            classes = F.pad((target_BTC[counted] > 0).repeat_interleave(objective.bin_bp, 1), around)
            known = F.pad(valid_BT[counted].repeat_interleave(objective.bin_bp, 1), around[2:])
            yield codes_of(batch), classes.cpu().numpy(), known.cpu().numpy()

    return Contexts(served(), widest)


def fit_rows(
    features: Features,
    rows: Rows,
    train: Loader,
    valid: Loader | None,
    *,
    together: bool,
    logs: bool = False,
) -> Fitted:
    """Fit a linear model to the rows of the training part.

    Where all would be too many numbers, as many rows as have room are drawn, those with a yes before the others, and weigh
    what they stand for.

    Args:
        features: what it sees.
        rows: what there is.
        train, valid: serve both parts whole. Without `valid` a fifth of the training part chooses the penalty, and the model
            is then fitted to all of it.
        together: neighbouring rows overlap or resemble each other: that fifth is one stretch. False: it is drawn.
        logs: see `Fitted`.
    """
    room = min(_MOST, _PRODUCTS // rows.objective.out_channels) // features.entries
    found, answers, count = _collect(features, rows, train, room)
    own, scale = len(found), found.deviations() if features.scaled else np.ones(found.width)
    found = found.over(scale)
    if valid is not None:
        others, theirs, _ = _collect(features, rows, valid, room // 4)
        found = Sparse.joined([found, others.over(scale)])
        values, weights = (
            np.concatenate([getattr(part, name) for part in (answers, theirs)]) for name in ("values", "weights")
        )
        linear = fit(found, Answers(rows.kind, values, weights), np.arange(len(found)) >= own)
    else:
        place = np.arange(own) if together else np.random.default_rng(0).permutation(own)
        linear = refit(found, answers, fit(found, answers, place * 5 // max(own, 1) == 2))
    return Fitted(rows, features, replace(linear, weights=linear.weights / scale[:, None]), own, count, logs)


def _collect(features: Features, rows: Rows, loader: Loader, room: int) -> tuple[Sparse, Answers, int]:
    """Features and answers of so many rows, in the order in which they come, and how many there are in all."""
    chosen, stands_for = _draw(rows, loader, room)
    parts: list[Sparse] = []
    found: list[Answers] = []
    seen = 0
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        here = chosen[seen : seen + rows.count(batch)]
        seen += len(here)
        if here.any():
            found.append(rows.answers(batch).of(here))
            parts.append(features.of(rows.codes(batch)[here]))
    values, weights = (np.concatenate([getattr(part, name) for part in found]) for name in ("values", "weights"))
    return Sparse.joined(parts), Answers(rows.kind, values, weights * stands_for[chosen, None]), len(chosen)


def _draw(rows: Rows, loader: Loader, room: int) -> tuple[Bits, Floats]:
    """Which of all rows are fitted to, and what each of these weighs."""
    loader.epoch, loader.position = 0, 0
    if len(loader) * loader.batch_size * max(rows.bins, 1) <= room:
        count = sum(rows.count(batch) for batch in loader)
        return np.ones(count, np.bool_), np.ones(count)
    yes: list[Bits] = []
    for batch in loader:
        if rows.kind == "binary":
            answers = rows.answers(batch)
            yes.append(np.asarray((answers.values * answers.weights > 0).any(1)))
        else:
            yes.append(np.zeros(rows.count(batch), np.bool_))
    found = np.concatenate(yes)
    held = int(found.sum())
    share_yes = min(1.0, room / 2 / max(held, 1))
    share_no = min(1.0, (room - share_yes * held) / max(len(found) - held, 1))
    share = np.where(found, share_yes, share_no)
    return np.random.default_rng(0).random(len(found)) < share, 1 / share
