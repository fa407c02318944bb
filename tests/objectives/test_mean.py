import math

import torch

from distgen.objectives.mean import mean

CPU = torch.device("cpu")


def test_a_mean_of_more_than_float32_can_count_is_exact():
    found = mean(CPU)
    found.weight += 2.0**24
    found.update(torch.ones(1))
    assert float(found.compute()) == 1 / (2**24 + 1)


def test_what_is_no_number_is_not_left_out():
    found = mean(CPU)
    found.update(torch.tensor([1.0, math.nan]))
    assert math.isnan(float(found.compute()))
