import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import GenomeLoader
from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.models.context import Context
from distgen.objectives.base_classes import BaseClasses, BaseClassesConfig
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.train.run import Run
from tests.conftest import RUN

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
    metrics = BaseClasses(CONFIG, small).metrics(torch.device("cpu"))
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


def test_a_bin_scores_as_its_highest_base(small_recipe, tmp_path):
    small_recipe.write_text(small_recipe.read_text().replace('name = "genes"', 'name = "genes"\nbin_bp = 8'))
    build(read(small_recipe, Recipe), tmp_path / "binned.zarr")
    store = open_store(tmp_path / "binned.zarr")
    objective = BaseClasses(CONFIG, store)
    loader = GenomeLoader(store, window=96, target_length=64, batch_size=3, tracks=objective.tracks, split=None)
    _, target, valid = objective.encode(loader.batch(0, 0), torch.float32)
    assert target.shape == (3, 8, 2)
    logits = torch.randn(3, 2, 96)
    total, count = objective.loss(logits, target, valid)
    expected = 0.0
    for b, t in valid.nonzero().tolist():
        best = logits[b, :, 16 + 8 * t : 24 + 8 * t].amax(1)
        expected += float(
            torch.nn.functional.binary_cross_entropy_with_logits(best, target[b, t].float(), reduction="sum")
        )
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert int(count) == 2 * int(valid.sum())
    with pytest.raises(ConfigError, match=r'jitter: 12 is no multiple of track "genes" with bin_bp 8. Use 8 or 16'):
        GenomeLoader(store, window=64, jitter=12, tracks=("genes",))


@given(st.integers(0, 2**32 - 1))
def test_top_k_is_the_share_of_sites_among_as_many_highest_scores_of_both_strands(small, seed):
    rng = np.random.default_rng(seed)
    metrics = BaseClasses(CONFIG, small).metrics(torch.device("cpu"))
    scores = rng.permutation(160).reshape(2, 2, 40).astype(np.float32) / 20  # no two alike
    truth, valid = (rng.random((2, 40, 2)) < 0.1).astype(np.uint8), rng.random((2, 40)) < 0.8
    truth[0, 0, 0], truth[0, 1, 0], valid[0, :2] = 1, 0, True
    for row in range(2):
        metrics.update(*(torch.tensor(x[row : row + 1]) for x in (scores, truth, valid)))
    flat, labels = scores.transpose(0, 2, 1)[valid].ravel(), truth[valid].ravel()
    first = np.argsort(-flat)[: labels.sum()]
    assert metrics.compute()["top_k"] == {"cds": pytest.approx(labels[first].mean())}


def test_some_of_a_tracks_classes_are_learned(small):
    config = BaseClassesConfig(kind="base_classes", track="genes", classes=("cds-",))
    some, every = BaseClasses(config, small), BaseClasses(CONFIG, small)
    assert (some.outputs, some.swap, some.out_channels) == (("cds-",), None, 1)
    both = BaseClassesConfig(kind="base_classes", track="genes", classes=("cds-", "cds+"))
    assert dict(BaseClasses(both, small).swap) == {"cds-": "cds+", "cds+": "cds-"}
    loader = GenomeLoader(small, window=60, batch_size=4, tracks=some.tracks, split=None)
    batch = next(iter(loader))
    for one, other in zip(some.encode(batch, torch.float32), every.encode(batch, torch.float32), strict=True):
        assert torch.equal(one, other[..., 1:] if one.shape[-1] == 1 else other)
    metrics = some.metrics(torch.device("cpu"))
    target = torch.zeros(4, 60, 1, dtype=torch.uint8)
    target[0, 3] = 1
    metrics.update(torch.randn(4, 1, 60), target, torch.ones(4, 60, dtype=torch.bool))
    assert metrics.compute()["top_k"].keys() == {"cds-"}
    with pytest.raises(ConfigError, match=r'objective.classes: track "genes" has no class "cds". .*cds'):
        BaseClasses(BaseClassesConfig(kind="base_classes", track="genes", classes=("cds",)), small)


def test_a_yes_weighs_more_and_what_is_learned_already_less(small):
    config = BaseClassesConfig(kind="base_classes", track="genes", positive_weight=5, focal=2)
    logits, target = torch.randn(2, 2, 20), torch.randint(0, 2, (2, 20, 2), dtype=torch.uint8)
    valid = torch.rand(2, 20) < 0.7
    total, weight = BaseClasses(config, small).loss(logits, target, valid)
    expected, weights = 0.0, 0
    for b, t in valid.nonzero().tolist():
        for c in range(2):
            yes = int(target[b, t, c])
            p = float(torch.sigmoid(logits[b, c, t])) if yes else 1 - float(torch.sigmoid(logits[b, c, t]))
            expected -= (5 if yes else 1) * (1 - p) ** 2 * np.log(p)
            weights += 5 if yes else 1
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(weight) == weights


def test_a_part_without_a_class_is_refused(small, small_coding, tmp_path):
    question = 'kind = "base_classes"\ntrack = "genes"'
    for store, part in ((small, "valid"), (small_coding, None)):
        (tmp_path / "run.toml").write_text(RUN.format(store=store.path).replace('kind = "masked_lm"', question))
        run = Run.read(tmp_path / "run.toml")
        if part is None:
            run.check()
            continue
        problem = f'part "{part}" of "default" is of no use: no base is a yes to cds\\+, cds-'
        with pytest.raises(ConfigError, match=problem):
            run.check()
    question += '\nclasses = ["cds+"]'
    (tmp_path / "run.toml").write_text(RUN.format(store=small.path).replace('kind = "masked_lm"', question))
    with pytest.raises(ConfigError, match=r"no base is a yes to cds\+$"):
        Run.read(tmp_path / "run.toml").check()


def test_a_track_of_signals_is_refused(annotated):
    with pytest.raises(ConfigError, match='track "signal" holds signals, not classes'):
        BaseClasses(BaseClassesConfig(kind="base_classes", track="signal"), annotated)


@pytest.mark.parametrize("size", [2, 4])
def test_slices_of_windows_are_encoded_as_the_windows_are(annotated, size):
    store, track = annotated, next(t for t in annotated.tracks.values() if t.is_classes)
    length, inside = 16 * track.bin_bp, 8 * track.bin_bp
    config = BaseClassesConfig(kind="base_classes", track=track.name)
    loader = GenomeLoader(
        store, window=length, target_length=inside, split=None, batch_size=6, strand="random", tracks=(track.name,)
    )
    batch = next(iter(loader))
    x, target, valid = BaseClasses(config, store).encode(batch, torch.float32)
    parts = [BaseClasses(config, store, Context(None, rank, size)).encode(batch, torch.float32) for rank in range(size)]
    assert torch.equal(torch.cat([part[0] for part in parts], 2), x)
    margin = (length - inside) // 2 // track.bin_bp
    assert torch.equal(torch.cat([part[1] for part in parts], 1)[:, margin:-margin], target)
    together = torch.cat([part[2] for part in parts], 1)
    assert torch.equal(together[:, margin:-margin], valid)
    assert together.sum() == valid.sum()
