import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import GenomeLoader
from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.objectives.base_classes import BaseClasses, BaseClassesConfig
from distgen.store.build import build
from distgen.store.reader import open_store

CONFIG = BaseClassesConfig(kind="base_classes", track="genes")


def auroc(scores, truth):
    """The share of pairs (positive, negative) in the right order; a tie is half."""
    positive, negative = scores[truth], scores[~truth]
    return (
        ((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()) if len(positive) else 0
    )


@given(st.integers(0, 2**32 - 1))
def test_auroc_is_that_of_all_pairs_over_all_batches(small, seed):
    rng = np.random.default_rng(seed)
    metrics = BaseClasses(CONFIG, small).metrics()
    scores, truth = rng.integers(-3, 4, (3, 2, 40)).astype(np.float32), rng.integers(0, 2, (3, 40, 2))
    valid = rng.random((3, 40)) < 0.8
    for row in range(3):
        one = slice(row, row + 1)
        metrics.update(torch.tensor(scores[one]), torch.tensor(truth[one]), torch.tensor(valid[one]))
    found = metrics.compute()
    flat, labels = scores.transpose(0, 2, 1)[valid], truth[valid] > 0
    for column, name in enumerate(("cds+", "cds-")):
        assert found["auroc"][name] == pytest.approx(auroc(flat[:, column], labels[:, column]), abs=1e-5)
    p = 1 / (1 + np.exp(-flat))
    neither = np.round((1 - p).prod(1), 6)
    assert found["auroc"]["neither"] == pytest.approx(auroc(neither, ~labels.any(1)), abs=1e-4)


def test_the_target_lies_centred_and_only_known_bases_count(small):
    objective = BaseClasses(CONFIG, small)
    loader = GenomeLoader(
        small, window=60, target_length=20, batch_size=4, tracks=objective.tracks, split="test", last="pad"
    )
    x, target, valid = objective.encode(loader.batch(0, 0), torch.float32)
    logits = torch.full((4, 2, 60), torch.nan)
    logits[:, :, 20:40] = 0
    total, count = objective.loss(logits, target, valid)
    assert x.shape == (4, 4, 60)
    assert float(total) == pytest.approx(float(count) * np.log(2), rel=1e-5)
    assert int(count) == 2 * int(valid.sum())


def test_a_binned_track_is_refused(small_recipe, tmp_path):
    small_recipe.write_text(small_recipe.read_text().replace('name = "genes"', 'name = "genes"\nbin_bp = 8'))
    build(read(small_recipe, Recipe), tmp_path / "binned.zarr")
    store = open_store(tmp_path / "binned.zarr")
    with pytest.raises(ConfigError, match='track "genes" has bin_bp 8'):
        BaseClasses(CONFIG, store)
    with pytest.raises(
        ConfigError, match=r'data\.jitter: 12 is no multiple of track "genes" with bin_bp 8. Use 8 or 16'
    ):
        GenomeLoader(store, window=64, jitter=12, tracks=("genes",))
