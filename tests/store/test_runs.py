import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distgen.store.reader import Store
from distgen.store.runs import set_bits
from tests.conftest import flat_codes


class Plane:
    """A plane of chunks of 16 bytes, those of zeros absent."""

    def __init__(self, bits):
        self.bytes = np.packbits(bits, bitorder="little")
        self.shape = self.bytes.shape
        self.layout = type("Layout", (), {"chunk_bytes": 16, "chunks": -(-len(self.bytes) // 16)})

    def chunks(self, first, last):
        for number in range(first, last):
            chunk = np.zeros(16, np.uint8)
            part = self.bytes[number * 16 : number * 16 + 16]
            chunk[: len(part)] = part
            if chunk.any():
                yield number, chunk


def runs(bits):
    edges = np.flatnonzero(np.diff(np.r_[0, bits, 0].astype(int)))
    return edges.reshape(-1, 2).tolist()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=12))
def test_runs_of_bits_are_found_across_words_and_chunks(pieces):
    bits = np.repeat([bit for bit, _ in pieces], [count for _, count in pieces]).astype(bool)
    bits = np.resize(bits, len(bits) // 8 * 8)
    assert set_bits(Plane(bits)).tolist() == runs(bits)


def test_the_ambiguous_bases_of_a_store_are_its_runs(small: Store):
    unknown = np.zeros(small.length, bool)
    for start, end in small.unknown.tolist():
        unknown[start:end] = True
    inside = np.zeros(small.length, bool)
    for start, end in small.contigs.whole().tolist():
        inside[start:end] = True
    assert (unknown == ((flat_codes(small) == 4) & inside)).all()
