"""substitute: every implementation against strings that are cut and joined."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import WindowError
from distgen.kernels import Replacements
from tests.kernels.oracle import Windows, complement, pack, window, windows


def replaced(case: Windows, row: int, changes: list[tuple[int, int, list[int]]]) -> tuple[str, list[int]]:
    """A window's text and the position of each base, with replacements from the last to the first."""
    # Bases enough for whatever is deleted; outside the limits they are N.
    reach = case.length + sum(deleted for _, deleted, _ in changes)
    start = case.starts[row]
    text = list(window(case.letters, start, reach, False, case.limits[row]))
    places = list(range(start, start + reach))
    for position, deleted, codes in reversed(changes):
        at = position - start
        if at >= reach:
            continue
        text[at : at + deleted] = ["ACGTN"[c] for c in codes]
        places[at : at + deleted] = [position + min(t, max(deleted - 1, 0)) for t in range(len(codes))]
    return "".join(text[: case.length]), places[: case.length]


@st.composite
def changed(draw: st.DrawFn) -> tuple[Windows, list[list[tuple[int, int, list[int]]]]]:
    case = draw(windows(longest=700))
    rng, rows = draw(st.randoms(use_true_random=False)), []
    for start in case.starts:
        at, changes = start + rng.randrange(4), []
        for _ in range(rng.randrange(6)):
            deleted = rng.choice([0, 1, 1, 2, rng.randrange(40)])
            codes = rng.choices(range(5), k=rng.choice([0, 1, 1, 2, rng.randrange(40)]))
            changes.append((at, deleted, codes))
            at += deleted + rng.choice([0, 1, rng.randrange(200)])
        rows.append(changes)
    return case, rows


@given(drawn=changed())
def test_replaced_windows_equal_the_oracle(implementation, drawn):
    case, rows = drawn
    arguments = case.arguments
    reverse = arguments.pop("reverse")
    plane, ambiguous = implementation.substitute(**arguments, **Replacements.of(rows)._asdict())
    starts = torch.arange(len(rows)) * (-(-case.length // 64) * 64)
    expected = [replaced(case, row, changes)[0] for row, changes in enumerate(rows)]
    for backward in (None, reverse):
        found = kernels.tokens(plane, starts, case.length, ambiguous=ambiguous, reverse=backward)
        if backward is not None:
            expected = [complement(e) if b else e for e, b in zip(expected, backward.tolist(), strict=True)]
        assert ["".join("ACGTN"[c] for c in row) for row in found.tolist()] == expected


@given(drawn=changed())
def test_positions_lead_back_to_the_plane(drawn):
    case, rows = drawn
    found = kernels.substituted_positions(case.arguments["starts"], case.length, Replacements.of(rows))
    assert found.tolist() == [replaced(case, row, changes)[1] for row, changes in enumerate(rows)]


def test_the_result_feeds_every_op():
    plane, ambiguous = pack("ACGTACGTNACGTACGT" * 8)
    starts = torch.tensor([3, 40])
    changes = Replacements.of([[(5, 1, [0]), (9, 0, [3, 3])], []])
    windows = kernels.substitute(plane, starts, 50, changes, ambiguous=ambiguous)
    codes = kernels.tokens(**windows._asdict())
    assert torch.equal(codes[1], kernels.tokens(plane, starts, 50, ambiguous=ambiguous)[1])
    assert torch.equal(kernels.one_hot(**windows._asdict())[:, 2] == 1, codes == 2)
    assert kernels.kmers(**windows._asdict(), k=3).shape == (2, 48)


def test_all_mutants_of_a_window_differ_from_it_in_one_base():
    letters = "GATTACANAC" * 10
    plane, ambiguous = pack(letters)
    starts, replacements = kernels.single_mutants(plane, torch.tensor([2, 30]), 20, ambiguous=ambiguous)
    made = kernels.tokens(**kernels.substitute(plane, starts, 20, replacements, ambiguous=ambiguous)._asdict())
    mutants = made.view(2, 20, 3, 20)
    for window_, start in enumerate((2, 30)):
        original = [("ACGTN").index(c) for c in letters[start : start + 20]]
        for i in range(20):
            others = [c for c in range(4) if c != original[i]][:3]
            for j, code in enumerate(others):
                assert mutants[window_, i, j].tolist() == [*original[:i], code, *original[i + 1 :]]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([[], [(4, 1, [0])]], r"replacement 0 of window 1 deletes 1 bases at 4: use 0 or more, at 5 "),
        ([[(3, 4, [0]), (6, 1, [1])], []], r"replacement 1 of window 0 deletes 1 bases at 6: use 0 or more, at 7 "),
        ([[(3, -1, [0])], []], "deletes -1 bases"),
        ([[(3, 1, [5])], []], "has a code 5: use 0 to 4"),
    ],
)
@pytest.mark.parametrize("implementation", ["reference", "numba_cpu"], indirect=True)
def test_replacements_out_of_order_are_refused_and_named(implementation, rows, problem):
    plane, _ = pack("ACGT" * 16)
    with pytest.raises(ValueError, match=problem):
        implementation.substitute(plane, torch.tensor([0, 5]), 8, **Replacements.of(rows)._asdict())


def test_a_deletion_that_needs_bases_beyond_the_plane_is_refused(implementation):
    plane, _ = pack("ACGT" * 4)
    changes = Replacements.of([[], [(8, 3, [])]])._asdict()
    implementation.substitute(plane, torch.tensor([0, 5]), 8, **changes)
    with pytest.raises(WindowError, match="window 1 "):
        implementation.substitute(plane, torch.tensor([0, 5]), 9, **changes)
