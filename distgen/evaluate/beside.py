"""What anyone can fit in a minute, beside a network: linear models of what the windows of the training part have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

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
from distgen.genome import Bits, Bytes, Int64, Interval
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.objectives import Objective
from distgen.store.reader import Store

Features = Callable[[Bytes], Sparse]
_MOST = 60_000_000  # numbers that are fitted to: 360 MB
_STRETCH = 1 << 20  # bases that are read together
_LEAST_RATE = 1e-3  # of counts, in units of their mean: its log is finite


@dataclass(frozen=True)
class Fitted:
    """A linear model of windows.

    Args:
        kind: of answers.
        features: of codes (N, L).
        linear: on these features.
        windows, of: how many windows it was fitted to, and how many there are.
        logs: the model that it stands beside predicts logs.
    """

    kind: Kind
    features: Features
    linear: Linear
    windows: int
    of: int
    logs: bool = False

    def logits(self, codes: Bytes) -> Tensor:
        """float32 (N, O, 1), as a network gives them."""
        scores = self.linear.scores(self.features(codes))
        if self.logs:
            scores = np.log(np.maximum(scores, _LEAST_RATE))
        return torch.from_numpy(scores).float()[..., None]


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


class Predictor(Protocol):
    """Says of windows what a network would."""

    def logits(self, codes: Bytes) -> Tensor:
        """float32 (n, O, L) or (n, O, 1) of codes uint8 (n, L)."""


def predict(fitted: Predictor, objective: Objective, loader: Loader, keep: Sequence[Collector]) -> None:
    """Give the predictions of one epoch of a loader to collectors, as `measure` gives those of a network."""
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        _, target, valid = objective.encode(batch, torch.float32, evaluating=True)
        own = fitted.logits(codes_of(batch))
        logits = torch.zeros(len(batch), *own.shape[1:])
        logits[(batch.weight > 0).cpu()] = own
        for collector in keep:
            collector.update(objective, batch, logits.to(loader.device), target, valid)


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


def fit_windows(
    kind: Kind,
    features: Features,
    entries: int,
    objective: Objective,
    train: Loader,
    valid: Loader | None,
    *,
    together: bool,
    logs: bool = False,
) -> Fitted:
    """Fit a linear model to the windows of the training part.

    Where all would be too many numbers, as many windows as have room are drawn, those with a yes before the others, and weigh
    what they stand for.

    Args:
        kind: of answers.
        features: of codes.
        entries: how many features of a window are not 0, at most.
        objective: says what is asked.
        train, valid: serve both parts whole. Without `valid` a fifth of the training part chooses the penalty, and the model
            is then fitted to all of it.
        together: neighbouring windows overlap or resemble each other: that fifth is one stretch. False: it is drawn.
        logs: see `Fitted`.
    """
    chosen, weights, count = _draw(kind, entries, objective, train)
    rows, answers = _collect(kind, features, objective, train, chosen)
    answers = replace(answers, weights=answers.weights * weights[:, None])
    own = len(rows)
    if valid is not None:
        chosen, weights, _ = _draw(kind, 4 * entries, objective, valid)
        others, theirs = _collect(kind, features, objective, valid, chosen)
        theirs = replace(theirs, weights=theirs.weights * weights[:, None])
        rows = Sparse.joined([rows, others])
        answers = Answers(
            kind,
            np.concatenate([answers.values, theirs.values]),
            np.concatenate([answers.weights, theirs.weights]),
        )
        linear = fit(rows, answers, np.arange(len(rows)) >= own)
    else:
        place = np.arange(own) if together else np.random.default_rng(0).permutation(own)
        linear = refit(rows, answers, fit(rows, answers, place * 5 // max(own, 1) == 2))
    return Fitted(kind, features, linear, own, count, logs)


def _draw(kind: Kind, entries: int, objective: Objective, loader: Loader) -> tuple[Bits | None, Floats, int]:
    """Which windows are fitted to (None: all), what each of these weighs, and how many there are."""
    loader.epoch = 0
    most = len(loader) * loader.batch_size
    if most * entries <= _MOST:
        count = sum(int((batch.weight > 0).sum()) for batch in loader)
        return None, np.ones(count), count
    yes: list[Bits] = []
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        answers = _answers(kind, objective, batch)
        positive = np.asarray((answers.values * answers.weights > 0).any(1))
        yes.append(positive if kind == "binary" else np.zeros_like(positive))
    found = np.concatenate(yes)
    room, held = _MOST // entries, int(found.sum())
    share_yes = min(1.0, room / 2 / max(held, 1))
    share_no = min(1.0, (room - share_yes * held) / max(len(found) - held, 1))
    share = np.where(found, share_yes, share_no)
    chosen = np.random.default_rng(0).random(len(found)) < share
    return chosen, 1 / share[chosen], len(found)


def _collect(
    kind: Kind, features: Features, objective: Objective, loader: Loader, chosen: Bits | None
) -> tuple[Sparse, Answers]:
    """Features and answers of chosen windows, in the order in which they come."""
    rows: list[Sparse] = []
    found: list[Answers] = []
    seen = 0
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        served = int((batch.weight > 0).sum())
        here = np.ones(served, np.bool_) if chosen is None else chosen[seen : seen + served]
        seen += served
        if here.any():
            found.append(_answers(kind, objective, batch).of(here))
            rows.append(features(codes_of(batch)[here]))
    values, weights = (np.concatenate([getattr(part, name) for part in found]) for name in ("values", "weights"))
    return Sparse.joined(rows), Answers(kind, values, weights)


def _answers(kind: Kind, objective: Objective, batch: Batch) -> Answers:
    """Those of a batch's windows."""
    _, target, valid = objective.encode(batch, torch.float32, evaluating=True)
    counted = batch.weight > 0
    return answers_of(kind, target[counted], valid[counted], objective.out_channels)
