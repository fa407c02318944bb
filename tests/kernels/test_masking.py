"""mask_tokens: the same in every implementation, and what is asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.kernels import reference
from tests.kernels.oracle import windows


@given(
    case=windows(longest=700),
    rate=st.floats(0, 1),
    mask=st.floats(0, 1),
    soft=st.one_of(st.none(), st.floats(0, 1)),
    k=st.sampled_from([1, 1, 3, 6]),
    more=st.integers(0, 9),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_masking_is_the_same_in_every_implementation(implementation, case, rate, mask, soft, k, more, seed):
    arguments = case.arguments
    tokens = reference.tokens(**arguments) if k == 1 else reference.kmers(**arguments, k=k, dtype=torch.int32)
    keys = torch.arange(len(tokens)) * 0x9E3779B97F4A7C15 % 2**62 + (seed >> 2)
    softmask = None if soft is None else tokens % 3 == 1
    options = {"mask": mask, "random": (1 - mask) / 2, "softmask": softmask, "softmask_rate": soft or 0.0}
    options |= {"span": k + more, "k": k}
    found = implementation.mask_tokens(tokens, keys, rate, **options)
    for one, other in zip(found, reference.mask_tokens(tokens, keys, rate, **options), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_masking_hides_the_asked_share_in_the_asked_way():
    tokens = torch.randint(0, 4, (64, 4096), dtype=torch.uint8)
    tokens[:, :100] = 4
    inputs, targets = kernels.mask_tokens(tokens, torch.arange(64), 0.15)
    chosen = targets >= 0
    assert not chosen[:, :100].any()
    assert torch.equal(targets[chosen], tokens[chosen].long())
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    share = chosen[:, 100:].double().mean().item()
    assert abs(share - 0.15) < 5 * (0.15 * 0.85 / chosen[:, 100:].numel()) ** 0.5
    masked, kept = inputs[chosen] == kernels.MASK_ID, inputs[chosen] == tokens[chosen]
    assert abs(masked.double().mean().item() - 0.8) < 0.01
    assert abs(kept.double().mean().item() - 0.125) < 0.01


@pytest.mark.parametrize("span", [2, 5, 20])
def test_spans_hide_the_asked_share_together(span):
    tokens = torch.randint(0, 4, (256, 4096), dtype=torch.uint8)
    inputs, targets = kernels.mask_tokens(tokens, torch.arange(256), 0.15, mask=1.0, random=0.0, span=span)
    chosen = targets >= 0
    assert abs(chosen.double().mean().item() - 0.15) < 0.01
    assert abs(chosen[:, 0].double().mean().item() - 0.15) < 0.1  # spans that began before the window count
    assert torch.equal(inputs == kernels.MASK_ID, chosen)
    edges = torch.nn.functional.pad(chosen.int(), (1, 1)).diff(dim=1)
    for row in edges[:20]:
        begins, ends = (row == 1).nonzero()[:, 0], (row == -1).nonzero()[:, 0]
        inner = (begins > 0) & (ends < 4096)
        assert ((ends - begins)[inner] >= span).all()


def test_soft_masked_bases_are_hidden_as_often_as_asked():
    tokens = torch.randint(0, 4, (64, 4096), dtype=torch.uint8)
    softmask = torch.rand(64, 4096) < 0.5
    _, targets = kernels.mask_tokens(tokens, torch.arange(64), 0.2, softmask=softmask, softmask_rate=0.05)
    chosen = (targets >= 0).double()
    assert abs(chosen[softmask].mean().item() - 0.05) < 0.005
    assert abs(chosen[~softmask].mean().item() - 0.2) < 0.005


def test_a_span_of_kmers_leaves_no_copy_of_the_bases_in_its_middle():
    codes = torch.randint(0, 4, (8, 2000), dtype=torch.uint8)
    tokens = (codes.unfold(1, 6, 1).int() * (4 ** torch.arange(5, -1, -1)).int()).sum(2).int()
    inputs, targets = kernels.mask_tokens(tokens, torch.arange(8), 0.3, mask=1.0, random=0.0, k=6)
    chosen = targets >= 0
    assert set(inputs[chosen].tolist()) == {4**6 + 1}
    # Every hidden stretch hides some base wholly: six k-mers in a row hold it.
    edges = torch.nn.functional.pad(chosen.int(), (1, 1)).diff(dim=1)
    for row in edges:
        begins, ends = (row == 1).nonzero()[:, 0], (row == -1).nonzero()[:, 0]
        assert ((ends - begins)[(begins > 0) & (ends < chosen.shape[1])] >= 6).all()


def test_a_row_is_masked_alike_in_any_batch(implementation):
    tokens = torch.randint(0, 4, (4, 100), dtype=torch.uint8)
    whole = implementation.mask_tokens(tokens, torch.arange(4), 0.3)[0]
    assert torch.equal(implementation.mask_tokens(tokens[2:3], torch.tensor([2]), 0.3)[0], whole[2:3])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rate": 1.5}, "no probabilities"),
        ({"mask": 0.9, "random": 0.2}, "no probabilities"),
        ({"softmask_rate": 0.1}, "goes with a softmask"),
        ({"span": 0}, "span of k or more"),
        ({"k": 6, "span": 3}, "span of k or more"),
    ],
)
def test_options_out_of_range_are_refused(options, problem):
    tokens = torch.zeros((1, 9), dtype=torch.int64)
    with pytest.raises(ValueError, match=problem):
        kernels.mask_tokens(tokens, torch.tensor([0]), **({"rate": 0.15} | options))
    with pytest.raises(TypeError, match="tokens torch.uint8"):
        kernels.mask_tokens(tokens.to(torch.uint8), torch.tensor([0]), 0.15, k=3)


def test_philox_gives_the_published_vectors():
    # Known-answer vectors of Random123, philox4x32 with 10 rounds.
    ones = torch.tensor([-1])
    found = kernels.philox(ones * 0, ones * 0, tag=0)
    assert [int(w) for w in found] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    found = kernels.philox(ones, ones, tag=0xFFFFFFFF, epoch=0xFFFFFFFF)
    assert [int(w) for w in found] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
