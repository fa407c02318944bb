"""Predictions that are kept, and metrics of some of the windows."""

from types import SimpleNamespace

import numpy as np
import torch

from distgen.evaluate.kept import Kept, answers_of
from distgen.evaluate.metrics import Chosen
from distgen.genome import Interval


class Batch(SimpleNamespace):
    def where(self):
        return [Interval(contig, 0, 5) for contig in self.contigs]

    def __len__(self):
        return len(self.weight)


OBJECTIVE = SimpleNamespace(outputs=("a", "b"), window=5)
TWO = Batch(weight=torch.tensor([1.0, 0.0, 1.0]), contigs=["y", "x", "x"])
ONE = Batch(weight=torch.tensor([1.0, 0.0, 0.0]), contigs=["y", "y", "y"])
LOGITS = torch.arange(6.0).reshape(3, 2, 1)


def test_rows_that_pad_a_batch_are_not_kept_and_units_are_numbered():
    kept = Kept("binary", lambda place: place.contig)
    target, valid = torch.tensor([[1, 0], [1, 1], [255, 1]]), torch.tensor([[True, True], [True, True], [False, True]])
    for batch in (TWO, ONE):
        kept.update(OBJECTIVE, batch, LOGITS, target, valid)
    found = kept.predictions()
    assert found.scores.tolist() == [[0, 1], [4, 5], [0, 1]]
    assert found.truth.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert found.known.tolist() == [[True, True], [False, True], [True, True]]
    assert found.units.tolist() == [1, 0, 1]
    some = found.of(np.array([True, False, True]))
    assert some.scores.tolist() == [[0, 1], [0, 1]]
    assert some.units.tolist() == [0, 0]


def test_logs_are_taken_back_and_rows_are_units_of_their_own():
    kept = Kept("regression", logs=True)
    kept.update(OBJECTIVE, TWO, LOGITS, torch.ones(3, 2), torch.ones(3, 2) > 0)
    found = kept.predictions()
    assert np.allclose(found.scores, np.exp([[0, 1], [4, 5]]))
    assert found.units.tolist() == [0, 1]


def test_classes_are_columns():
    answers = answers_of("classes", torch.tensor([2, 0, -1]), torch.tensor([True, True, False]), 3)
    assert answers.values.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert answers.weights.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


class Seen:
    def __init__(self):
        self.rows = []

    def update(self, logits, target, valid):
        self.rows += logits[:, 0, 0].tolist()

    def compute(self):
        return {"rows": self.rows}


def test_some_windows_are_chosen_as_they_come():
    chosen = Chosen(Seen(), np.array([False, True, True]))
    for batch in (TWO, ONE):
        chosen.update(OBJECTIVE, batch, LOGITS, LOGITS, LOGITS)
    assert chosen.compute() == {"rows": [4, 0]}
    everything = Chosen(Seen())
    everything.update(OBJECTIVE, TWO, LOGITS, LOGITS, LOGITS)
    assert everything.compute() == {"rows": [0, 2, 4]}
