"""Models that share parameters between strands against what that means: the reverse complement's answer is the answer, turned."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import models
from distgen.config import Finetune, checked
from distgen.errors import ConfigError
from distgen.models import CnnConfig, DilatedConfig, TransformerConfig
from distgen.models.schema import Schema
from distgen.models.strands import Inside, Last, check_schema, other_inputs, other_outputs, rearranged
from distgen.train.flops import Flops
from distgen.train.model import adapt, merge

MASKED = Schema(("A", "C", "G", "T", "mask"), ("A", "C", "G", "T"), None, (("A", "T"), ("C", "G")))
CLASSES = Schema(MASKED.inputs[:4], ("cds+", "exon", "cds-"), None, (("cds+", "cds-"), ("exon", "exon")))
WINDOWS = Schema(CLASSES.inputs, CLASSES.outputs, 46, CLASSES.swap)  # 46 are no multiple of what is pooled
LABEL = Schema(CLASSES.inputs, ("yes",), 46, ())

SMALL = {
    "cnn": CnnConfig(family="cnn", channels=(8, 12, 12), widths=(5, 3, 3), pools=(2, 3, 2), hidden=8),
    "cnn, odd": CnnConfig(family="cnn", channels=(8, 8), widths=(5, 3), pools=(3, 1), hidden=8),
    "dilated": DilatedConfig(family="dilated", channels=8, dilations=(1, 2, 4)),
    "dilated, even": DilatedConfig(family="dilated", channels=8, stem_width=1, width=4, dilations=(2, 4)),
    "transformer": TransformerConfig(family="transformer", channels=8, pool=4, dim=24, depth=2, heads=3),
    "transformer, flat": TransformerConfig(
        family="transformer", channels=8, pool=1, dim=12, depth=1, heads=2, mlp="gelu", dropout=0.1
    ),
}


def shared(name):
    return SMALL[name].model_copy(update={"rc": "share"})


def windows(schema, rows=2):
    """One-hot windows with some N, and some hidden bases where there is a mask."""
    codes_BL = torch.randint(0, len(schema.inputs) + 1, (rows, schema.window or 48))
    return (codes_BL[:, None] == torch.arange(len(schema.inputs))[:, None]).double()


def far(model, x_BCL, schema):
    """How far the answer for the other strand is from the answer, turned; by the largest of it."""
    with torch.no_grad():
        y_BOL, other_BOL = model(x_BCL), model(x_BCL[:, list(other_inputs(schema))].flip(2))
    return float((other_BOL[:, list(other_outputs(schema))].flip(2) - y_BOL).abs().max() / y_BOL.abs().max())


def trained(model, x_BCL, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    target_BOL = torch.randn_like(model(x_BCL))
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x_BCL) - target_BOL).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("schema", [MASKED, CLASSES, WINDOWS, LABEL], ids=["masked", "classes", "windows", "label"])
@pytest.mark.parametrize("name", SMALL)
def test_the_answer_for_the_reverse_complement_is_the_answer_turned(name, schema):
    torch.manual_seed(0)
    model, x_BCL = models.build(shared(name), schema).double().eval(), windows(schema)
    before = model(x_BCL).detach()
    assert far(model, x_BCL, schema) < 1e-12
    assert far(trained(model, x_BCL), x_BCL, schema) < 1e-12
    assert not torch.allclose(model(x_BCL), before, rtol=0.01)
    plain = models.build(SMALL[name], schema).double().eval()
    assert far(plain, x_BCL, schema) > 1e-3


@pytest.mark.parametrize("schema", [MASKED, WINDOWS], ids=["masked", "windows"])
@pytest.mark.parametrize("name", SMALL)
def test_half_of_the_parameters_are_left_and_all_of_them_learn(name, schema):
    model, plain = models.build(shared(name), schema), models.build(SMALL[name], schema)
    if name != "cnn, odd" or schema.window is None:  # there more N stand around the window
        biases = len(schema.outputs)  # one for each output, on both strands
        assert 2 * models.parameter_count(model) == models.parameter_count(plain) + biases
        length = schema.window or 48
        assert Flops(model, len(schema.inputs))(length) == Flops(plain, len(schema.inputs))(length)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model(windows(schema).float()).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_unshared_model_is_drawn_as_before():
    torch.manual_seed(0)
    drawn = torch.nn.Conv2d(4, 8, (1, 9), padding="same").weight
    torch.manual_seed(0)
    assert torch.equal(models.build(SMALL["dilated"], LABEL).stem.weight, drawn)
    torch.manual_seed(0)
    assert torch.equal(models.build(shared("dilated"), LABEL).stem.weight, drawn[:4])


def halves(channels, groups, turned=False):
    """What swaps the halves of each group of channels, and the order of groups if they are `turned`: a matrix."""
    index = [(g, c) for g in range(groups) for c in range(channels // groups)]
    half, matrix = channels // groups // 2, torch.zeros(channels, channels, dtype=torch.float64)
    for row, (g, c) in enumerate(index):
        matrix[row, index.index((groups - 1 - g if turned else g, (c + half) % (2 * half)))] = 1
    return matrix


@given(
    groups=st.integers(1, 3),
    of=st.integers(1, 3),
    half=st.integers(1, 3),
    width=st.integers(1, 4),
    turned=st.booleans(),
)
def test_inner_weights_are_those_that_commute_with_the_other_strand(groups, of, half, width, turned):
    inside, (out, into) = Inside(groups, of, turned), (2 * half * groups, 2 * of)
    whole_OIK = torch.randn(out, into, 1, width, dtype=torch.float64)
    made_OIK = inside.whole(inside.keep(whole_OIK)).detach()
    # As matrices of permutations have it: P W reversed P' = W.
    turned_OIK = torch.einsum(
        "po,oixk,iq->pqxk", halves(out, groups), made_OIK.flip(3), halves(into, of, turned and of > 1)
    )
    assert torch.equal(turned_OIK, made_OIK)
    assert (made_OIK == whole_OIK).flatten(1).all(1).sum() >= out // 2  # the first halves are what they were
    bias_O = inside.whole(inside.keep(torch.randn(out, dtype=torch.float64))).detach()
    assert torch.equal(halves(out, groups) @ bias_O, bias_O)


@given(of=st.integers(1, 3), half=st.integers(1, 3), order=st.sampled_from([(0,), (1, 0), (0, 1), (2, 1, 0, 3)]))
def test_heads_are_those_that_commute_with_the_other_strand(of, half, order):
    last, into = Last(order, of), 2 * half * of
    made_OI = last.whole(last.keep(torch.randn(len(order), into, dtype=torch.float64))).detach()
    order = list(order)
    assert torch.equal(made_OI[order] @ halves(into, of), made_OI)
    bias_O = last.whole(torch.randn(len(order)))
    assert torch.equal(bias_O[order], bias_O)


@given(st.permutations(range(7)), st.integers(0, 7))
def test_an_axis_is_rearranged_as_an_index_would(order, entries):
    x, order = torch.rand(2, 7, 3), order[:entries] or [0]
    assert torch.equal(rearranged(x, 1, tuple(order)), x[:, order])


def test_low_rank_sums_leave_both_strands_alike_and_add_up_to_plain_weights():
    torch.manual_seed(0)
    model, x_BCL = models.build(shared("transformer"), MASKED).double().eval(), windows(MASKED)
    names = model.state_dict().keys()
    adapt(model, Finetune(init_from="elsewhere", lora_rank=2), set())
    before = model(x_BCL).detach()
    tuned = trained(model, x_BCL)(x_BCL).detach()
    assert far(model, x_BCL, MASKED) < 1e-12
    assert not torch.allclose(tuned, before, rtol=0.01)
    merge(model)
    assert torch.equal(model(x_BCL), tuned)
    assert model.state_dict().keys() == names
    assert far(model, x_BCL, MASKED) < 1e-12


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_blocks_are_traced_whole(name):
    torch.manual_seed(0)
    model, x_BCL = models.build(shared(name), WINDOWS).eval(), windows(WINDOWS).float()
    expected = model(x_BCL)
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(model(x_BCL), expected)


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        ("dilated", {"channels": 7}, "7 is no pair of halves, .* Use 6 or 8"),
        ("dilated", {"stem_width": 8}, "8 has no middle .* Use 7 or 9"),
        ("dilated", {"width": 2, "dilations": [2, 3]}, "2 has no middle .* Use 1 or 3"),
        ("cnn", {"channels": [8, 7, 8]}, "7 is no pair"),
        ("cnn", {"widths": [5, 5, 4]}, "4 has no middle"),
        ("cnn", {"hidden": 9}, "9 is no pair"),
        ("transformer", {"channels": 1}, "1 is no pair of halves, .* Use 2"),
        ("transformer", {"width": 4}, "4 has no middle"),
    ],
)
def test_sizes_that_strands_cannot_share_are_refused_with_those_that_they_can(family, sizes, message):
    kind = type(SMALL[family])
    assert checked(kind, {"family": family, **sizes}).rc is None
    with pytest.raises(ConfigError, match=message):
        checked(kind, {"family": family, "rc": "share", **sizes})


def test_questions_and_windows_that_strands_cannot_share_are_refused():
    own = Schema(LABEL.inputs, LABEL.outputs, 46, None)
    with pytest.raises(ConfigError, match=r"model\.rc: .* on the window's own strand alone.* Leave it out"):
        models.build(shared("dilated"), own)
    with pytest.raises(ConfigError, match=r"model\.rc: .* not with causal"):
        check_schema(LABEL, 1, causal=True)
    odd = Schema(LABEL.inputs, LABEL.outputs, 101, ())
    with pytest.raises(ConfigError, match=r"model\.rc: 101 bases have no middle .* Use data\.window = 102"):
        models.build(shared("transformer"), odd)
    x_BCL = windows(odd)
    assert far(models.build(shared("cnn, odd"), odd).double().eval(), x_BCL, odd) < 1e-12
    models.build(SMALL["transformer"], odd)
