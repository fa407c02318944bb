import json
from pathlib import Path

import pytest

from distgen.cli import run
from distgen.evaluate.meme import read_motifs
from distgen.train.run import Run
from tests.conftest import fit

KNOWN = Path(__file__).parents[2] / "shards/sources/known-motifs.meme"


@pytest.fixture
def out(run_file, tmp_path):
    trained = Run.read(run_file)
    fit(trained, tmp_path / "out")
    trained.write(tmp_path / "out/run.toml")
    return tmp_path / "out"


def test_motifs_are_written_and_compared(out, tmp_path, capsys):
    asked = ["motifs", str(out), "--out", str(tmp_path / "m.meme")]
    assert run([*asked, "--compare", str(KNOWN), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    written, known = read_motifs(tmp_path / "m.meme")[0], {motif.name for motif in read_motifs(KNOWN)[0]}
    assert (found["split"], found["step"]) == ("train", 12)
    assert [f"{row['name']}_{row['consensus']}" for row in found["motifs"]] == [motif.name for motif in written]
    assert [row["sites"] for row in found["motifs"]] == [motif.sites for motif in written]
    assert all(row["match"] in known and 0 < row["p"] <= 1 for row in found["motifs"])
    assert all(len(motif.frequency) == 3 for motif in written)
    assert run(asked) == 0
    text = capsys.readouterr().out
    assert f"m.meme: {len(written)} motifs" in text
    assert f"{written[0].consensus}  " in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "vlaid"], 'there is no part "vlaid" of a split. Did you mean "valid"?'),
        (["--compare", "none.meme"], "there is no file none.meme"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(out, tmp_path, capsys, options, message):
    assert run(["motifs", str(out), "--out", str(tmp_path / "m.meme"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m.meme").exists()
