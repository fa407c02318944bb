import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.report.verdict import judge

KINDS = ("still falling", "underfits", "settled", "overfits", "unstable")


def curves(kind, count, noise=0.0, seed=0):
    """Validation and training losses of which the verdict is known, from 2 to about 1."""
    x, rng = np.linspace(0, 1, count), np.random.default_rng(seed)
    fast, turned = 1 + np.exp(-20 * x), np.maximum(0, x - 0.4)
    v, t = {
        "still falling": (1 + np.exp(-1.5 * x), 0.95 + np.exp(-1.5 * x)),
        "underfits": (fast, fast),
        "settled": (fast, fast - 0.3 * (1 - np.exp(-20 * x))),
        "overfits": (fast + 0.8 * turned, fast - 0.2 * x),
        "unstable": (fast + 0.8 * turned, fast + 0.8 * turned - 0.01),
    }[kind]
    return v + rng.normal(0, noise, count), t + rng.normal(0, noise, count)


def records(v, t=None, losses=None, every=50):
    found = []
    for number, value in enumerate(v):
        step = (number + 1) * every
        for part in range(5):
            loss = (v if t is None else t)[number] if losses is None else losses[5 * number + part]
            found.append({"step": step - 40 + 10 * part, "loss": float(loss)})
        found.append(
            {"step": step, "valid": {"loss": float(value)}}
            | ({"train": {"loss": float(t[number])}} if t is not None else {})
        )
    return found


@pytest.mark.parametrize("kind", KINDS)
@given(count=st.integers(8, 80), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 999))
def test_a_verdict_holds_under_some_noise_and_in_any_unit(kind, count, scale, seed):
    v, t = curves(kind, count, 0.002, seed)
    assert judge(records(scale * v, scale * t)).word == kind


def test_noise_alone_is_hardly_ever_taken_for_overfitting():
    found = [judge(records(*curves("underfits", 8 + seed % 60, 0.05, seed))).word for seed in range(400)]
    assert set(found) <= {"underfits", "settled", "still falling", "overfits", "unstable"}
    assert found.count("overfits") + found.count("unstable") <= 4


@given(count=st.integers(30, 80), seed=st.integers(0, 99))
def test_overfitting_is_seen_through_much_noise(count, seed):
    v, t = curves("overfits", count, 0.03, seed)
    found = judge(records(v, t))
    assert found.word == "overfits"
    turned = int(found.said.split()[2].replace(",", ""))
    assert 0.05 * 50 * count <= turned <= 0.65 * 50 * count


def test_it_says_from_where_to_where():
    v, t = curves("overfits", 20)
    said = judge(records(v, t)).said
    assert said.startswith("From step 350 to 1,000 the validation loss rose from 1.")
    assert "that of the training part went from 0.9" in said


def test_a_training_loss_that_jumps_back_is_unstable():
    v, t = curves("settled", 20)
    losses = np.repeat(t, 5)
    assert judge(records(v, t, losses)).word == "settled"
    losses[61] = 1.9
    found = judge(records(v, t, losses))
    assert found.word == "unstable"
    assert "to 1.9 at step 620" in found.said


def test_what_was_not_measured_is_not_guessed():
    for kind in ("overfits", "settled"):
        v, _ = curves(kind, 20)
        found = judge(records(v))
        assert found.word == kind
        assert "not measured" in found.said


def test_few_validations_say_nothing():
    v, t = curves("overfits", 20)
    assert judge(records(v[:7], t[:7])).word == "too short"
    assert judge([]).word == "too short"


def test_where_hardly_anything_was_learned_it_says_so():
    v = np.full(10, 1.385)
    found = judge(records(v, v, np.full(50, 1.386)))
    assert found.word == "underfits"
    assert "hardly anything was learned" in found.said
