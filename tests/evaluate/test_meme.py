from pathlib import Path

import numpy as np
import pytest

from distgen.errors import ConfigError
from distgen.evaluate.meme import Matrix, read_motifs, write_meme

KNOWN = Path(__file__).parents[2] / "shards/sources/known-motifs.meme"


def test_what_is_written_is_read_again(tmp_path):
    random = np.random.default_rng(0)
    motifs = [Matrix(f"m{n}", random.dirichlet([0.3] * 4, 5 + n), n) for n in range(3)]
    write_meme(tmp_path / "m.meme", motifs, np.array([0.3, 0.2, 0.2, 0.3]))
    text = (tmp_path / "m.meme").read_text()
    assert text.startswith("MEME version 4\n\nALPHABET= ACGT\n")
    assert "A 0.30000 C 0.20000 G 0.20000 T 0.30000" in text
    for mine, found in zip(motifs, read_motifs(tmp_path / "m.meme")[0], strict=True):
        assert found.name == f"{mine.name}_{mine.consensus}"
        assert found.sites == mine.sites
        assert np.allclose(found.frequency, mine.frequency, atol=1e-5)


def test_a_consensus_has_one_letter_two_or_none():
    rows = [[0.6, 0.2, 0.1, 0.1], [0.5, 0.0, 0.5, 0.0], [0.1, 0.4, 0.1, 0.4], [0.25] * 4, [0, 0, 0, 1]]
    motif = Matrix("m", np.array(rows))
    assert motif.consensus == "ARYNT"
    assert Matrix("m", np.array(rows[4:])).bits == 2
    assert Matrix("m", np.array(rows[1:2])).bits == 1
    assert Matrix("m", np.array(rows[3:4])).bits == 0


def test_the_known_motifs_are_what_they_are_called():
    known = {motif.name: motif for motif in read_motifs(KNOWN)[0]}
    assert len(known) >= 25  # fewer would say little of what is alike by chance
    assert known["CTCF"].consensus == "YNRCCASYAGRKGGCRSYN"
    assert known["AP1"].consensus == "RTGACTCAY"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("MEME version 4\n", "there is no motif in it"),
        ("MOTIF a\nletter-probability matrix: alength= 4 w= 2\n0.5 0.5 0 0\n", "ends 1 rows before motif a does"),
        ("MOTIF a\nletter-probability matrix: alength= 4 w= 1\n3 4 5 6\n", "line 3: not four frequencies"),
        ("MOTIF a\nletter-probability matrix: alength= 4 w= 1\n1 0 x 0\n", "line 3: not four frequencies"),
        ("MOTIF a\nletter-probability matrix: alength= 4\n1 0 0 0\n", "line 2: no matrix of 4 letters and w="),
        ("MOTIF a\nMOTIF b\n", "line 2: motif a has no letter-probability matrix"),
        ("MOTIF a\nURL x\n", "ends before the letter-probability matrix of motif a"),
        (
            "Background letter frequencies\nA 1 C 0 G 0 T 0\nMOTIF a\nletter-probability matrix: w= 1\n1 0 0 0\n",
            "above 0",
        ),
        (">a\n1 2\n3 4\n", "a has not four lines"),
        (">a\n1 2\n3 4\n1 2\n3\n", "a has not four lines"),
        (">a\n0 2\n0 4\n0 2\n0 3\n", "a has a base without counts"),
        ("MOTIF a\nletter-probability matrix: alength= 20 w= 1\n", "line 2: no matrix of 4 letters"),
    ],
)
def test_what_is_no_motif_is_said_with_its_line(tmp_path, text, problem):
    (tmp_path / "m.meme").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_motifs(tmp_path / "m.meme")
    with pytest.raises(ConfigError, match="there is no file"):
        read_motifs(tmp_path / "none.meme")
