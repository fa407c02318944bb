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
    assert motifs.names == ("MA0001.1_FIRST", "MA0002.1_SECOND")
    assert motifs.starts.tolist() == [0, 3, 5]
    assert motifs.scores[0, 0] == pytest.approx(np.log2((8 + 0.2) / 10.8 / 0.25))
    assert motifs.scores[4, 2] == pytest.approx(np.log2((10 + 0.2) / 10.8 / 0.25))


def test_meme_probabilities_are_log_odds_over_its_background(tmp_path):
    (tmp_path / "a.meme").write_text(MEME)
    motifs = Motifs.read(tmp_path / "a.meme")
    assert motifs.names == ("M1_first", "M2")
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


def test_no_sites_are_as_many_as_are_not_said(tmp_path):
    for name, said in (("none", ""), ("zero", " nsites= 0")):
        (tmp_path / name).write_text(f"MOTIF a\nletter-probability matrix: alength= 4 w= 1{said}\n1 0 0 0\n")
    one, other = (Motifs.read(tmp_path / name).scores for name in ("none", "zero"))
    assert one.tolist() == other.tolist()
    assert one[0, 0] == pytest.approx(np.log2((20 + 0.2) / 20.8 / 0.25))


def test_a_matrix_ends_where_it_says(tmp_path):
    """A line that is no row of four does not end it before."""
    (tmp_path / "a").write_text("MOTIF a\nletter-probability matrix: alength= 4 w= 2\n1 0 0 0\nURL x\n")
    with pytest.raises(ConfigError, match="line 4: not four frequencies"):
        Motifs.read(tmp_path / "a")
