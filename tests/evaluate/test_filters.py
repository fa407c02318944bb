import numpy as np
import pytest
import torch
from torch import nn

from distgen import GenomeLoader, models
from distgen.errors import ConfigError
from distgen.evaluate.filters import begin_as, find_motifs
from distgen.evaluate.motifs import Motifs
from distgen.models.boltzmann import BoltzmannConfig
from distgen.models.cnn import CnnConfig
from distgen.models.layers import Convolution
from distgen.models.mlp import MlpConfig
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
    model.stem = Convolution(5, 1, 6).requires_grad_(False)
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


CNN = {"family": "cnn", "widths": (5, 3), "pools": (2, 2)}
JASPAR = """>M1 FIRST
A [ 8 0 2 ]
C [ 0 10 2 ]
G [ 1 0 3 ]
T [ 1 0 3 ]
>M2 SECOND
A [ 9 0 4 0 1 ]
C [ 0 0 2 7 0 ]
G [ 0 9 2 0 9 ]
T [ 1 1 2 3 0 ]
"""
BOTH = [
    CnnConfig(**CNN, channels=(6, 4)),
    CnnConfig(**CNN, channels=(6, 4), rc="share", hidden=4),
    BoltzmannConfig(family="boltzmann", motifs=3, width=5),
]


@pytest.fixture
def known(tmp_path):
    """Motifs of 3 and 5 bases."""
    path = tmp_path / "known.jaspar"
    path.write_text(JASPAR)
    return Motifs.read(path)


@pytest.mark.parametrize("config", BOTH, ids=["cnn", "cnn, both strands alike", "boltzmann"])
def test_a_model_that_begins_as_motifs_scores_windows_as_a_scan_does(known, config):
    model = models.build(config, schema(4, 1, window=16, swap=()))
    begin_as(model, INPUTS, known)
    codes = np.random.default_rng(0).integers(0, 4, (40, 16)).astype(np.uint8)
    x_BI1L = torch.eye(4)[torch.from_numpy(codes).long()].transpose(1, 2).unsqueeze(2)
    with torch.no_grad():
        scores_BHL = model.stem(x_BI1L)[:, :, 0]
    # Where filters are read on both strands, the other strand's scores are the second half.
    half = scores_BHL.shape[1] // 2
    rows = [(0, half), (1, half + 1)] if model.stem.both_strands else [(0, 1), (2, 3)]
    scanned = known.scan(codes)
    for motif, (own, (first, end)) in enumerate(zip(rows, [(0, 3), (3, 8)], strict=True)):
        best, edge = known.scores[first:end].max(1).sum(), (end - first) // 2
        whole = scores_BHL[:, own, edge : 16 - edge]  # a motif that begins or ends outside has less to lose
        found = (whole.amax((1, 2)).numpy() + 2) * best / 4
        assert found == pytest.approx(scanned[:, motif], rel=1e-4)


def test_filters_beyond_the_motifs_and_channels_that_are_no_bases_stay_out_of_it(known):
    config = CnnConfig(**CNN, channels=(6, 4))
    torch.manual_seed(0)
    drawn = models.build(config, schema(5, 1, window=16)).state_dict()
    torch.manual_seed(0)
    model = models.build(config, schema(5, 1, window=16))
    begin_as(model, ("mask", *INPUTS), known)
    found = model.state_dict()
    assert not found["stem.weight"][:4, 0].any()
    assert torch.equal(found["stem.weight"][4:], drawn["stem.weight"][4:])
    assert torch.equal(found["stem.bias"][4:], drawn["stem.bias"][4:])
    assert all(torch.equal(found[name], drawn[name]) for name in drawn if not name.startswith("stem"))


def test_a_filter_shorter_than_its_motif_has_the_stretch_that_says_most(known):
    model = models.build(CnnConfig(**CNN | {"widths": (2, 3)}, channels=(6, 4)), schema(4, 1, window=16))
    begin_as(model, INPUTS, known)
    assert model.stem.weight[0, :, 0].argmax(0).tolist() == known.scores[:2].argmax(1).tolist()  # A C, and not C G/T


def test_motifs_that_have_no_room_are_refused(known):
    model = models.build(CnnConfig(**CNN, channels=(3, 4)), schema(4, 1, window=16))
    with pytest.raises(ConfigError, match="2 motifs are 4 filters, one for each strand, and the first layer has 3"):
        begin_as(model, INPUTS, known)
    bag = models.build(MlpConfig(family="mlp", k=(2,)), schema(4, 1, window=16))
    with pytest.raises(ConfigError, match="Mlp begins with no convolution on bases"):
        begin_as(bag, INPUTS, known)
