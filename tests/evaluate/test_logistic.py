"""Linear models, against what solves them in closed form or by hand."""

import numpy as np
import pytest

from distgen.evaluate.kmers import Sparse
from distgen.evaluate.logistic import Answers, _Problem, fit, refit


def drawn(outputs=2, noise=0.1, rows=400):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 6)) + 3
    w = rng.standard_normal((6, outputs))
    return x, (x - 3) @ w + noise * rng.standard_normal((rows, outputs)) + 1


def test_ridge_equals_the_closed_form():
    x, y = drawn()
    weights, bias = _Problem(Sparse.of(x), Answers("regression", y, np.ones_like(y))).solve(
        0.1, np.zeros((7, y.shape[1]))
    )
    c = x - x.mean(0)
    expected = np.linalg.solve(c.T @ c / len(x) + 0.1 * np.eye(6), c.T @ (y - y.mean(0)) / len(x))
    assert weights == pytest.approx(expected, abs=1e-4)
    assert bias == pytest.approx(y.mean(0) - x.mean(0) @ expected, abs=1e-3)


def numeric(loss, scores, h=1e-6):
    found = np.zeros_like(scores)
    for at in np.ndindex(scores.shape):
        up, down = scores.copy(), scores.copy()
        up[at], down[at] = up[at] + h, down[at] - h
        found[at] = (loss(up) - loss(down)) / (2 * h)
    return found


@pytest.mark.parametrize("kind", ["binary", "classes", "regression"])
def test_slopes_are_derivatives_of_the_losses(kind):
    rng = np.random.default_rng(3)
    values = np.eye(3)[rng.integers(0, 3, 5)]
    answers = Answers(kind, values, np.full((5, 3), 2.0))
    scores = rng.standard_normal((5, 3))
    slopes = numeric(lambda s: answers.losses(s)[0].sum(), scores)
    assert answers.losses(scores)[1] == pytest.approx(slopes, abs=1e-6)


def test_penalties_are_chosen_on_rows_that_are_not_fitted_to():
    """Columns without a meaning, more than rows: a weak penalty learns them by heart, and the held-out rows say so."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((120, 200))
    y = np.stack([x[:, 0] > 0, rng.random(120) > 0.5], 1).astype(float)
    held_out = np.arange(120) >= 60
    answers = Answers("binary", y, np.ones_like(y))
    found = fit(Sparse.of(x), answers, held_out)
    noise = Answers("binary", np.where(held_out[:, None], 1 - y, y), np.ones_like(y))
    assert fit(Sparse.of(x), noise, held_out).strengths == (1e-2, 1e-2)
    again = refit(Sparse.of(x), answers, found)
    assert again.strengths == found.strengths
    assert np.abs(again.weights - found.weights).max() > 1e-3


def test_nothing_of_held_out_rows_is_in_the_weights():
    x, y = drawn(1, rows=100)
    held_out = np.arange(100) >= 80
    wrong = np.where(held_out[:, None], -x, x)
    known = Answers("regression", y, np.ones_like(y) * ~held_out[:, None])
    start = np.zeros((7, 1))
    one, other = (_Problem(Sparse.of(rows), known).solve(1e-2, start) for rows in (x, wrong))
    assert one[0] == pytest.approx(other[0], abs=1e-3)
    assert one[1] == pytest.approx(other[1], abs=1e-2)


def test_unknown_answers_change_nothing():
    x, y = drawn(1, rows=100)
    weights = np.ones_like(y)
    weights[::2] = 0
    held_out = np.arange(100) >= 80
    wrong = np.where(weights > 0, y, 1e3)
    one = fit(Sparse.of(x), Answers("regression", wrong, weights), held_out)
    other = fit(Sparse.of(x), Answers("regression", np.where(weights > 0, y, 0), weights), held_out)
    assert one.weights == pytest.approx(other.weights)
    known = x[1:80:2]
    expected, *_ = np.linalg.lstsq(known - known.mean(0), y[1:80:2, 0] - y[1:80:2].mean())
    assert one.weights[:, 0] == pytest.approx(expected, abs=0.05)
