"""Letters to planes: the fast twin against the specification, and that against strings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.genome import ALIGNMENT
from distgen.ingest import packing

LETTERS = "ACGTUNRYSWKMBDHV-.acgtunryswkmbdhv"


def as_array(letters):
    return np.frombuffer(letters.encode() + b"A" * (-len(letters) % ALIGNMENT), np.uint8)


@pytest.mark.parametrize("pack", [packing.reference, packing.pack])
@given(letters=st.text(LETTERS, max_size=300))
def test_planes_say_what_the_letters_say(pack, letters):
    packed = pack(as_array(letters))
    codes = packing.unpack_codes(packed.sequence)
    ambiguous, lower = (np.unpackbits(plane, bitorder="little") for plane in packed[1:3])
    for i, letter in enumerate(letters):
        upper = letter.upper().replace("U", "T")
        assert ambiguous[i] == (upper not in "ACGT")
        assert codes[i] == ("ACGT".index(upper) if upper in "ACGT" else 0)
        assert lower[i] == letter.islower()
    assert not codes[len(letters) :].any()
    assert not ambiguous[len(letters) :].any()
    assert not lower[len(letters) :].any()
    assert packed.mixed == any(letter not in "ACGTacgt" for letter in letters)


def test_both_agree_on_every_byte_and_call_strange_ones_ambiguous():
    every = np.arange(256, dtype=np.uint8)
    one, other = packing.reference(every), packing.pack(every)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    ambiguous = np.unpackbits(one.ambiguous, bitorder="little").astype(bool)
    assert {chr(i) for i in np.flatnonzero(~ambiguous)} == set("ACGTUacgtu")


@given(st.lists(st.integers(0, 3), max_size=200))
def test_base_i_is_in_bits_2_i_mod_4(codes):
    codes = np.array(codes + [0] * (-len(codes) % 4), np.uint8)
    packed = packing.pack_codes(codes)
    assert [(int(packed[i // 4]) >> (2 * (i % 4))) & 3 for i in range(len(codes))] == codes.tolist()
    assert np.array_equal(packing.unpack_codes(packed), codes)


def test_flags_are_packed_from_the_lowest():
    assert packing.pack_flags(np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], bool)).tolist() == [1, 2]


@given(st.lists(st.sampled_from(range(5)), min_size=1, max_size=200), st.data())
def test_any_stretch_of_the_planes_decodes_to_its_codes(codes, data):
    start = data.draw(st.integers(0, len(codes)))
    end = data.draw(st.integers(start, len(codes)))
    padded = np.array(codes + [0] * (-len(codes) % 8), np.uint8)
    sequence, ambiguous = (
        packing.pack_codes(np.where(padded > 3, 0, padded).astype(np.uint8)),
        packing.pack_flags(padded > 3),
    )
    assert packing.codes_between(sequence, ambiguous, start, end).tolist() == codes[start:end]
    assert packing.flags_between(ambiguous, start, end).tolist() == [code > 3 for code in codes[start:end]]
