import pytest
import torch
from torch import nn

from distgen.models.context import Context
from distgen.models.dilated import Dilated, DilatedConfig
from distgen.models.transformer import Transformer, TransformerConfig
from distgen.train import flops
from distgen.train.flops import Flops, peak_flops
from tests.schemas import schema

CONFIG = DilatedConfig(family="dilated", channels=16, stem_width=5, dilations=(1, 2, 4))


def test_of_the_dilated_family_they_are_three_times_forward_but_for_the_first_layers_input():
    D, L, blocks = 16, 96, 3
    stem = 2 * L * 4 * 5 * D
    forward = stem + 2 * L * (blocks * (3 * D * D + D * D) + D * 7)
    counted = Flops(Dilated(CONFIG, schema(4, 7)), 4)
    assert counted(L) == 3 * forward - stem
    assert counted(2 * L) == 2 * counted(L)


def test_frozen_parameters_spare_what_their_gradients_would_take():
    model = Dilated(CONFIG, schema(4, 7))
    whole = Flops(model, 4)(64)
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    assert Flops(model, 4)(64) == whole - 2 * 64 * 4 * 5 * 16


def test_attention_is_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)

        def forward(self, x_BCL):
            x_BLC = self.inner(x_BCL.transpose(1, 2))[:, None]
            return nn.functional.scaled_dot_product_attention(x_BLC, x_BLC, x_BLC)

    linear, attention = 2 * 32 * 4 * 4, 2 * 32 * 32 * 4 * 2
    assert Flops(Attention(), 4)(32) >= 2 * linear + 3 * attention


def test_counting_changes_neither_weights_nor_random_numbers():
    model = Dilated(CONFIG, schema(4, 7))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    Flops(model, 4)(64)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_nobody_is_told_of_a_peak_that_nobody_knows(monkeypatch):
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None
    assert peak_flops(torch.device("cpu"), torch.float32, 2.0) == 2e12
    monkeypatch.setattr(flops, "_SIDE", 64)
    monkeypatch.setattr(flops, "_SECONDS", 0.05)
    assert peak_flops(torch.device("cpu"), torch.float32, "measure") > 1e6


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312.0),
        ("NVIDIA A100 80GB PCIe", torch.float16, 312.0),
        ("NVIDIA H200", torch.bfloat16, 989.4),
        ("NVIDIA H200 NVL", torch.bfloat16, 835.5),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4),
        ("NVIDIA H100 80GB HBM3", torch.float32, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16, None),
        ("NVIDIA L40", torch.bfloat16, None),
        ("NVIDIA A10G", torch.bfloat16, None),
        ("Tesla T4", torch.bfloat16, None),
        ("Another GPU", torch.bfloat16, None),
    ],
)
def test_a_device_is_known_by_its_whole_name(name, dtype, expected):
    assert flops._listed(name, dtype) == expected


def test_of_workers_that_share_windows_they_are_those_of_whole_windows():
    context = object.__new__(Context)
    shared = Dilated(CONFIG, schema(4, 7), context)
    assert Flops(shared, 4, context)(96) == Flops(Dilated(CONFIG, schema(4, 7)), 4)(96)
    assert shared.stem.context is context


def test_the_transformer_family_is_counted_as_it_grows():
    config = TransformerConfig(family="transformer")
    counted = Flops(Transformer(config, schema(4, 2)), 4)
    one, two, four = (counted(length * config.multiple * 16) for length in (1, 2, 4))
    assert 2 * one < two  # attention grows with the square
    assert four - 2 * two > 2 * (two - 2 * one) * 0.99
