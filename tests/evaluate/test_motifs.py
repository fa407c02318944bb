"""Motif matrices, against a scan in plain Python."""

import numpy as np
import pytest

from distgen.errors import ConfigError
from distgen.evaluate.motifs import Motifs

JASPAR = """>MA0001.1\tFIRST
A  [ 8  0  2 ]
C  [ 0 10  2 ]
G  [ 1  0  3 ]
T  [ 1  0  3 ]
>MA0002.1 SECOND
10 0
0 0
0 10
0 0
"""
MEME = """MEME version 4

ALPHABET= ACGT
strands: + -
Background letter frequencies
A 0.3 C 0.2 G 0.2 T 0.3

MOTIF M1 first
letter-probability matrix: alength= 4 w= 3 nsites= 10 E= 0
 0.8 0.0 0.1 0.1
 0.0 1.0 0.0 0
 2e-1 0.2 0.3 0.3
URL http://example.org/M1

MOTIF M2
letter-probability matrix: alength= 4 w= 2
1 0 0 0
0 0 1 0
"""


def obvious(matrix, row):
    """The best place on both strands; an ambiguous base scores 0."""
    best = -np.inf
    for strand in (row, [3 - code if code < 4 else 4 for code in row[::-1]]):
        for begin in range(len(row) - len(matrix) + 1):
            best = max(best, sum(matrix[i][strand[begin + i]] for i in range(len(matrix)) if strand[begin + i] < 4))
    return best


def test_jaspar_counts_are_log_odds(tmp_path):
    (tmp_path / "a.jaspar").write_text(JASPAR)
    motifs = Motifs.read(tmp_path / "a.jaspar")
    assert motifs.names == ("MA0001.1 FIRST", "MA0002.1 SECOND")
    assert motifs.starts.tolist() == [0, 3, 5]
    assert motifs.scores[0, 0] == pytest.approx(np.log2((8 + 0.2) / 10.8 / 0.25))
    assert motifs.scores[4, 2] == pytest.approx(np.log2((10 + 0.2) / 10.8 / 0.25))


def test_meme_probabilities_are_log_odds_over_its_background(tmp_path):
    (tmp_path / "a.meme").write_text(MEME)
    motifs = Motifs.read(tmp_path / "a.meme")
    assert motifs.names == ("M1 first", "M2")
    assert motifs.starts.tolist() == [0, 3, 5]
    assert motifs.scores[2, 0] == pytest.approx(np.log2((0.2 * 10 + 0.8 * 0.3) / 10.8 / 0.3))
    assert motifs.scores[4, 1] == pytest.approx(np.log2(0.8 * 0.2 / 20.8 / 0.2))


def test_a_scan_equals_one_in_plain_python(tmp_path):
    (tmp_path / "a.jaspar").write_text(JASPAR)
    motifs = Motifs.read(tmp_path / "a.jaspar")
    codes = np.random.default_rng(0).choice(5, (30, 12), p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8)
    found = motifs.scan(codes)
    for m, (first, end) in enumerate(((0, 3), (3, 5))):
        expected = [obvious(motifs.scores[first:end].tolist(), row.tolist()) for row in codes]
        assert found[:, m] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(found, motifs.scan(np.where(codes < 4, 3 - codes, 4)[:, ::-1].astype(np.uint8)))
    assert motifs.scan(codes[:, :2])[:, 0].tolist() == [0] * 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no motif in it"),
        (">A\n1 2\n3 4\n", "A has not four lines"),
        (">A\n1 2\n3 4\n1 2\n3\n", "A has not four lines"),
        (">A\n0 2\n0 4\n0 2\n0 3\n", "A is no matrix"),
        ("MOTIF A\nMOTIF B\nletter-probability matrix: w= 1\n", "A has no letter-probability matrix"),
        ("MOTIF B\nletter-probability matrix: w= 1\nURL x\n", "B has no line of four probabilities"),
    ],
)
def test_what_is_no_motif_is_named(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ConfigError, match=f"a.txt: {message}"):
        Motifs.read(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        Motifs.read(tmp_path / "none.txt")
