import numpy as np
import pytest
import torch
from torch import nn

from distgen import GenomeLoader, models
from distgen.errors import ConfigError
from distgen.evaluate.filters import find_motifs
from distgen.models.boltzmann import BoltzmannConfig
from distgen.models.cnn import CnnConfig
from tests.conftest import flat_codes, table_store
from tests.schemas import schema

SITE = "GATTCA"
CODES = np.array(["ACGT".index(letter) for letter in SITE])
INPUTS = ("A", "C", "G", "T")


def tuned(stem, number=0):
    """A filter that gives as many as there are letters of the site, less three and a half."""
    with torch.no_grad():
        stem.weight.zero_()
        stem.bias.fill_(-100)
        stem.bias[number] = -3.5
        stem.weight[number, CODES, 0, torch.arange(6)] = 1
    return stem


def table(tmp_path, sequences):
    return table_store(tmp_path, "binary", {"train": [(sequence, 0) for sequence in sequences]})


def loader(store, **others):
    return GenomeLoader(store, batch_size=4, last="pad", order="sequential", **others)


def test_sites_are_counted_once_each_and_what_does_not_fit_is_not(tmp_path):
    plain = "CCCCCCCC"
    sequences = [
        plain + SITE + plain,
        plain + "GATTCC" + plain,  # five of six
        plain + "GATCCC" + plain,  # four, which is less than half of what six give
        plain + "GATNCA" + plain,  # an unknown base
        "TTCA" + plain + plain,  # not all of it in the window
        plain * 2,
    ]
    model = models.build(CnnConfig(family="cnn", channels=(3,), widths=(6,), pools=(2,)), schema(4, 1, window=22))
    tuned(model.stem, 1)
    (found,), background = find_motifs(model, INPUTS, loader(table(tmp_path, sequences)))
    assert (found.name, found.sites) == ("filter-1", 2)
    assert found.consensus[:5] == "GATTC"
    assert found.frequency[5].tolist() == [0.5, 0.5, 0, 0]
    letters = "".join(sequences)
    assert background == pytest.approx([letters.count(base) / sum(map(letters.count, INPUTS)) for base in INPUTS])


def test_a_machine_reads_both_strands(tmp_path):
    model = models.build(BoltzmannConfig(family="boltzmann", motifs=2, width=6), schema(4, 1, window=16))
    tuned(model.stem)
    store = table(tmp_path, ["CCCCC" + SITE + "CCCCC", "CCCCCTGAATCCCCCC"])
    (found,), _ = find_motifs(model, INPUTS, loader(store))
    assert (found.consensus, found.sites) == (SITE, 2)


def test_of_windows_that_overlap_a_site_counts_once(small):
    torch.manual_seed(0)
    model = nn.Module()
    model.stem = nn.Conv2d(5, 1, (1, 6), padding="same").requires_grad_(False)
    model.stem.bias.fill_(1)
    windows = loader(small, window=64, stride=16)
    channels = ("C", "A", "mask", "G", "T")
    weight = model.stem.weight[0, [channels.index(base) for base in INPUTS], 0].numpy()
    codes, best = flat_codes(small), {}
    for batch in windows:
        for first in batch.positions[batch.weight > 0].tolist():
            starts = range(max(first, 0), min(first + 64, len(codes)) - 5)
            inside = [start for start in starts if (codes[start : start + 6] < 4).all()]
            scores = {i: weight[codes[i : i + 6], np.arange(6)].sum() + 1 for i in inside}
            if scores:
                at = max(scores, key=scores.get)
                best[at] = scores[at]
    expected = sum(score > max(best.values()) / 2 for score in best.values())
    (found,), _ = find_motifs(model, channels, windows, sites=10_000)
    assert found.sites == expected < sum(len(batch) for batch in windows)


def test_the_best_are_taken(tmp_path):
    model = models.build(BoltzmannConfig(family="boltzmann", motifs=1, width=6), schema(4, 1, window=16))
    tuned(model.stem)
    store = table(tmp_path, [*["CCCCCGATTCGCCCCC"] * 3, *["CCCCC" + SITE + "CCCCC"] * 5])
    (found,), _ = find_motifs(model, INPUTS, loader(store), sites=5)
    assert (found.consensus, found.sites) == (SITE, 5)


def test_who_has_no_filters_is_told(small):
    with pytest.raises(ConfigError, match="Linear begins with no convolution on bases"):
        find_motifs(nn.Linear(2, 2), INPUTS, loader(small, window=64))
