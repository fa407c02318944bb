import math

import pytest
import torch

from distgen import GenomeLoader, kernels
from distgen.config import Sample
from distgen.errors import ConfigError
from distgen.models.boltzmann import ENERGIES
from distgen.objectives.contrastive import Contrastive, ContrastiveMetrics
from tests.conftest import motifs, table_store


@pytest.fixture
def table(tmp_path):
    return table_store(tmp_path, "binary", {"train": [*motifs(0, 5), ("ACGNT", 0), ("NNNNN", 0)]})


def test_the_target_is_how_many_bases_are_known(table):
    objective = Contrastive(table, Sample())
    assert (objective.window, objective.outputs, objective.swap) == (40, ENERGIES, ())
    batch = GenomeLoader(table, split="train", batch_size=8, last="pad", order="sequential").batch(0, 0)
    x, target, valid = objective.encode(batch, torch.float32)
    assert torch.equal(x[:7], kernels.one_hot(**batch.packed, dtype=torch.float32)[:7])
    assert not x[7].any()
    assert target[:7].tolist() == [40] * 5 + [4, 0]
    assert valid.tolist() == [True] * 6 + [False] * 2  # no base is known, and a row that only pads


def test_the_loss_is_what_data_has_more_of_free_energy_than_chains(table):
    objective, logits = Contrastive(table, Sample()), torch.randn(4, len(ENERGIES), 1)
    target, valid = torch.tensor([40.0, 30.0, 40.0, 9.0]), torch.tensor([True, True, False, True])
    total, count = objective.loss(logits, target, valid)
    rows = logits[[0, 1, 3], :, 0]
    assert float(total) == pytest.approx(float((rows[:, 0] - rows[:, 1] + rows[:, 2]).sum()), rel=1e-5)
    assert float(count) == 79


def test_metrics_are_of_all_known_bases_and_windows_alike():
    torch.manual_seed(0)
    logits, target, valid = torch.randn(3, 8, 6, 1), torch.randint(1, 40, (3, 8)).float(), torch.rand(3, 8) < 0.7
    metrics = ContrastiveMetrics(torch.device("cpu"))
    for part in zip(logits, target, valid, strict=True):
        metrics.update(*part)
    found = metrics.compute()
    rows, bases = logits[valid][..., 0].double(), target[valid].double().sum()
    energy, chains, _, pseudo, rebuilt, mirrored = rows.T
    expected = {
        "loss": pseudo.sum() / bases,
        "bits_per_base": pseudo.sum() / bases / math.log(2),
        "rebuilt_bits_per_base": rebuilt.sum() / bases / math.log(2),
        "gap_to_chains": (chains - energy).sum() / bases,
        "gap_to_mirrored": (mirrored - energy).sum() / bases,
        "below_mirrored": (energy < mirrored).double().mean(),
    }
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)


def test_an_ensemble_says_the_mean_of_what_its_machines_say(table):
    logits = torch.randn(3, 4, 6, 1)
    assert torch.allclose(Contrastive(table, Sample()).average(logits), logits.mean(0))


@pytest.mark.parametrize(
    ("data", "key"),
    [({"packed": True}, "data.packed"), ({"curriculum": [{"epochs": 1, "window": 8}]}, "data.curriculum")],
)
def test_windows_that_are_no_chains_length_are_refused(table, data, key):
    with pytest.raises(ConfigError) as error:
        Contrastive(table, Sample(**data))
    assert error.value.key == key
