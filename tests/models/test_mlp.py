from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.models.mlp import Bag, Mlp, MlpConfig
from tests.schemas import schema

KINDS = [{}, {"k": (3,)}, {"k": (1, 2, 4), "both_strands": True}]


def config(**sizes):
    return MlpConfig(**{"family": "mlp", "hidden": (8, 6, 6), "width": 9} | sizes)


def one_hot(*sequences):
    """(B, 4, L); N is all zeros."""
    rows = [[[float(letter == base) for letter in sequence] for base in "ACGT"] for sequence in sequences]
    return torch.tensor(rows).view(len(sequences), 4, -1)


# ---- k-mers -----------------------------------------------------------------------------------


def counted(sequence, k, both):
    """Of each word (of each pair of a word and its reverse complement) how often it stands in a sequence, an obvious way."""
    words = ["".join(letters) for letters in product("ACGT", repeat=k)]
    turned = {word: "".join("TGCA"["ACGT".index(letter)] for letter in reversed(word)) for word in words}
    found = dict.fromkeys(words, 0)
    for start in range(len(sequence) - k + 1):
        word = sequence[start : start + k]
        if word in found:
            found[word] += 1
            if both:
                found[turned[word]] += 1
    return torch.tensor([float(found[word]) for word in words if not both or word <= turned[word]])


def scaled(counts):
    return counts / (counts.square().mean() + 1e-6).sqrt()


@given(st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=3), st.integers(1, 6), st.booleans())
def test_words_of_a_window_are_counted(sequences, k, both):
    bag = Bag((k,), schema(5, 1, window=12), 12, both)
    x_BCL = torch.cat([one_hot(*sequences), torch.rand(len(sequences), 1, 12)], dim=1)  # a channel that is no base
    found = bag(x_BCL)
    assert found.shape == (len(sequences), bag.size, 1)
    for row, sequence in zip(found, sequences, strict=True):
        torch.testing.assert_close(row[:, 0], scaled(counted(sequence, k, both)))


@given(st.text("ACGTN", min_size=12, max_size=30), st.integers(1, 4), st.booleans())
def test_words_around_every_base_are_counted(sequence, k, both):
    found = Bag((k,), schema(4, 1), 7, both)(one_hot(sequence))
    assert found.shape[2] == len(sequence) - 6
    for place in range(found.shape[2]):
        expected = scaled(counted(sequence[place : place + 7], k, both))
        torch.testing.assert_close(found[0, :, place], expected, rtol=1e-4, atol=1e-5)


def test_several_lengths_stand_one_after_another():
    x = one_hot("GATTACANNGATTA")
    several, each = (
        Bag((1, 3), schema(4, 1, window=14), 14, True),
        [Bag((k,), schema(4, 1, window=14), 14, True) for k in (1, 3)],
    )
    assert several.size == 2 + 32
    assert torch.equal(several(x), torch.cat([one(x) for one in each], dim=1))


def test_counts_are_exact_in_eight_bits_of_mantissa():
    bag = Bag((2,), schema(4, 1, window=602), 602, False)
    x = one_hot("AC" * 301)
    with torch.autocast("cpu", torch.bfloat16):
        found = bag(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, bag(x).bfloat16())  # 301 would have been 300 or 302


def test_a_window_reads_the_same_from_both_strands():
    torch.manual_seed(0)
    model, x = (
        Mlp(config(k=(3, 4), both_strands=True, dropout=0.0), schema(4, 2, window=20)),
        one_hot("GATTACAGATTCCNGATTAC"),
    )
    torch.testing.assert_close(model(x), model(x.flip(1, 2)))
    one = Mlp(config(k=(3, 4), dropout=0.0), schema(4, 2, window=20))
    assert not torch.allclose(one(x), one(x.flip(1, 2)))


def test_a_window_of_n_is_all_zeros():
    assert not Bag((2, 3), schema(4, 1, window=9), 9, True)(one_hot("N" * 9)).any()


# ---- the model --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", KINDS)
@pytest.mark.parametrize("window", [5, 21])
def test_a_window_has_one_answer(sizes, window):
    model = models.build(config(**sizes), schema(4, 3, window=window))
    assert model(torch.rand(2, 4, window)).shape == (2, 3, 1)
    with pytest.raises(ValueError, match=f"{window + 1} bases are no window of {window}"):
        model(torch.rand(2, 4, window + 1))


@pytest.mark.parametrize("sizes", KINDS)
def test_every_length_keeps_its_length(sizes):
    model = models.build(config(**sizes), schema(5, 3))
    for length in (1, 8, 30):
        assert model(torch.rand(2, 5, length)).shape == (2, 3, length)


@pytest.mark.parametrize(("sizes", "width"), [({}, 9), ({}, 8), ({"k": (2,)}, 9), ({"k": (1, 3)}, 8)])
def test_an_output_sees_as_many_bases_as_it_is_wide(sizes, width):
    torch.manual_seed(0)
    x = torch.rand(1, 4, 41, requires_grad=True)
    model = Mlp(config(width=width, dropout=0.0, **sizes), schema(4, 1))
    model(x)[0, 0, 20].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().flatten()
    assert config(width=width).receptive_field == width
    assert (int(seen.min()), int(seen.max())) == (20 - (width - 1) // 2, 20 + width // 2)


@pytest.mark.parametrize("sizes", KINDS)
@pytest.mark.parametrize("window", [None, 12])
def test_gradients_reach_every_parameter(sizes, window):
    torch.manual_seed(0)
    model = models.build(config(**sizes), schema(4, 2, window=window))
    model(torch.rand(3, 4, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"both_strands": True}, "counts k-mers of both strands, and there are none"),
        ({"k": (9,)}, "k"),
        ({"hidden": ()}, "hidden"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        checked(MlpConfig, {"family": "mlp"} | sizes)


def test_words_are_no_longer_than_what_is_seen():
    models.build(config(k=(6,), width=5), schema(4, 1, window=6))
    for window in (None, 5):
        with pytest.raises(ConfigError, match="5 bases hold no word of 6. Use 5 at most") as error:
            models.build(config(k=(6,), width=5), schema(4, 1, window=window))
        assert error.value.key == "model.k"


def test_it_can_be_exported():
    model, x = models.build(config(k=(3,), both_strands=True), schema(4, 2, window=12)).eval(), one_hot("GATTACAGATTN")
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))
