import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import BinaryCalibrationError

from distgen.objectives.calibration import BINS, Calibration


@given(st.integers(0, 2**32 - 1))
def test_the_error_is_that_of_torchmetrics_over_all_batches(seed):
    random = np.random.default_rng(seed)
    p, right = torch.tensor(random.random((3, 20)), dtype=torch.float32), torch.tensor(random.integers(0, 2, (3, 20)))
    mine, theirs = Calibration(), BinaryCalibrationError(n_bins=BINS)
    for row in range(3):
        mine.update(p[row], right[row])
        theirs.update(p[row], right[row])
    assert torch.isclose(mine.compute().float(), theirs.compute(), atol=1e-6)


def test_bins_that_hold_anything_say_confidence_share_and_count():
    metric = Calibration()
    metric.update(torch.tensor([0.5, 0.52, 1.0, 0.0]), torch.tensor([1, 0, 1, 0]))
    bins = metric.bins()
    assert bins["count"] == [1, 2, 1]
    assert np.allclose(bins["confidence"], [0, 0.51, 1])
    assert bins["share"] == [0, 0.5, 1]
