"""The share of sites among the highest scores."""

import math
from itertools import pairwise, permutations

import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.objectives.top_k import BinaryTopK, share_on_top


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_of_scores_that_tie_it_is_the_mean_over_all_their_orders(pairs):
    scores, truth = torch.tensor([float(s) for s, _ in pairs]), torch.tensor([int(t) for _, t in pairs])
    count = int(truth.sum())
    found = float(share_on_top(scores, truth))
    if not count:
        assert math.isnan(found)
        return
    orders = [
        order for order in permutations(range(len(pairs))) if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    shares = [int(truth[list(order[:count])].sum()) / count for order in orders]
    assert abs(found - sum(shares) / len(shares)) < 1e-6


def test_batches_count_together():
    metric = BinaryTopK()
    metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 1, 1]))
    metric.update(torch.tensor([0.7, 0.2]), torch.tensor([1, 0]))
    assert float(metric.compute()) == 2 / 3
