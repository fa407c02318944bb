"""Tracks in a store: what the sources say, in the dtype asked for, built once."""

import numpy as np
import pyBigWig
import pytest

from distgen.config import Recipe, Track, read
from distgen.errors import SourceError
from distgen.store import tracks
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify
from distgen.store.work import Work
from tests.store.test_build import tree

LENGTHS = {"chr1": 1000, "chr2": 333}
BASE = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
SIGNAL = '[[track]]\nname = "s"\nsource = ["one.bw", "two.bedgraph"]\nbin_bp = 10\n'


@pytest.fixture
def folder(tmp_path):
    """A genome of two contigs with a bigWig that knows chr1 alone, a bedGraph and a BED."""
    rng = np.random.default_rng(0)
    letters = {name: "".join(rng.choice(list("ACGT"), n)) for name, n in LENGTHS.items()}
    (tmp_path / "a.fa").write_text("".join(f">{name}\n{s}\n" for name, s in letters.items()))
    with pyBigWig.open(str(tmp_path / "one.bw"), "w") as file:
        file.addHeader([("chr1", 1000)])
        file.addEntries(["chr1"] * 3, [0, 105, 500], ends=[100, 110, 1000], values=[2.0, 8.0, 100.0])
    (tmp_path / "two.bedgraph").write_text("2\t0\t333\t-1.5\nchr1\t0\t10\t0\n")
    (tmp_path / "b.bed").write_text("chr1\t15\t16\tx\t7\nchr2\t300\t333\ty\t9\n")
    return tmp_path


def built(folder, text, name="a.zarr"):
    (folder / "a.toml").write_text(BASE + text)
    build(read(folder / "a.toml", Recipe), folder / name)
    store = open_store(folder / name)
    assert not verify(store).damage
    return store


def test_a_gap_is_missing_or_zero_as_the_recipe_says_and_an_unknown_contig_is_missing(folder):
    missing = built(folder, SIGNAL).track("s")
    assert missing.columns == ("one", "two")
    assert missing.bins == 100 + 34
    values = missing.decoded
    assert values.dtype == np.float32
    assert values[0].tolist() == [2, 0]
    assert values[10, 0] == 4  # 5 bases of 8 over the width of the bin
    assert np.isnan(values[11:50, 0]).all()
    assert np.isnan(values[100:, 0]).all()
    assert values[100:, 1].tolist() == [-1.5] * 34
    zero = built(folder, SIGNAL + 'absent = "zero"\n').track("s").decoded
    assert zero[11:50, 0].tolist() == [0] * 39
    assert np.isnan(zero[100:, 0]).all()


def test_a_track_that_is_not_compressed_is_read_as_it_lies_in_the_file(folder):
    squeezed, plain = (built(folder, SIGNAL + more).track("s") for more in ("", "compress = false\n"))
    assert [block.layout.codec for block in squeezed.blocks + plain.blocks] == ["zstd", "raw"]
    assert plain.blocks[0].mapped
    np.testing.assert_array_equal(plain.decoded, squeezed.decoded)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_what_is_stored_can_be_turned_back(folder, dtype):
    text = '[[track]]\nname = "s"\nsource = "one.bw"\nbin_bp = 10\nscale = 0.5\npower = 0.75\nsoft_clip = 5.0\n'
    track = built(folder, text + f'dtype = "{dtype}"\n').track("s")
    raised = (100 * 0.5) ** 0.75
    stored = track[50:51][0, 0]
    assert stored == pytest.approx(4 + np.sqrt(raised - 4), rel=0.1 if dtype == "uint8" else 1e-3)
    restored = track.restore(track.decoded)
    assert restored[50:100, 0] == pytest.approx(100, rel=0.2 if dtype == "uint8" else 5e-3)
    assert np.isnan(restored[20, 0])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('dtype = "float16"\nscale = 1000.0\n', r'track "s": one has 100 at chr1:500, which float16 cannot hold'),
        ('dtype = "uint8"\nscale = 3.0\n', r"one has 100 at chr1:500, which uint8 cannot hold \(0 to 254\)"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(folder, extra, message):
    with pytest.raises(SourceError, match=message):
        built(folder, '[[track]]\nname = "s"\nsource = "one.bw"\nbin_bp = 10\n' + extra)


def test_intervals_are_classes_or_values(folder):
    text = '[[track]]\nname = "p"\nsource = "b.bed"\nbin_bp = 8\n'
    track = built(folder, text).track("p")
    assert track.is_classes
    assert np.flatnonzero(track.decoded).tolist() == [1, *range(125 + 37, 125 + 42)]
    scores = built(folder, text + 'value = "score"\nabsent = "zero"\n').track("p").decoded
    assert scores[1, 0] == 7
    assert scores[0, 0] == 0


def test_only_what_changed_is_built_again(folder, monkeypatch):
    store = built(folder, SIGNAL)
    written = []
    finish = Work.finish
    monkeypatch.setattr(Work, "finish", lambda *arguments: (written.append(arguments[1]), finish(*arguments)))
    more = built(folder, SIGNAL + '[[track]]\nname = "p"\nsource = "b.bed"\n')
    assert len(written) == 1
    assert more.manifest["generation"] == 2
    assert more.track("s").id == store.track("s").id
    written.clear()
    built(folder, SIGNAL.replace("10", "20") + '[[track]]\nname = "p"\nsource = "b.bed"\n')
    assert len(written) == 1
    written.clear()
    fewer = built(folder, SIGNAL.replace("10", "20"))
    assert not written
    assert list(fewer.tracks) == ["s"]
    (folder / "b.bed").write_text("chr1\t15\t17\n")
    built(folder, SIGNAL.replace("10", "20") + '[[track]]\nname = "p"\nsource = "b.bed"\n')
    assert len(written) == 1


def test_many_files_make_several_arrays_and_a_new_one_leaves_the_first_alone(folder):
    for number in range(70):
        (folder / f"p{number}.bed").write_text(f"chr1\t{number}\t{number + 1}\n")

    def text(files):
        names = ", ".join(f'"p{number}.bed"' for number in range(files))
        return f'[[track]]\nname = "p"\nsource = [{names}]\n'

    first = built(folder, text(69)).track("p")
    assert [block.shape[1] for block in first.blocks] == [64, 5]
    more = built(folder, text(70)).track("p")
    assert more.blocks[0].id == first.blocks[0].id
    assert np.argmax(more.decoded[:1000], axis=0).tolist() == list(range(70))
    assert more[5:6].shape == (1, 70)


def test_a_track_of_several_units_is_the_same_however_it_is_built(folder, monkeypatch):
    monkeypatch.setattr(tracks.format, "CHUNK_BYTES", 1 << 6)
    monkeypatch.setattr(tracks.format, "SHARD_CHUNKS", 4)
    monkeypatch.setattr(tracks, "PIECE", 7)
    one = built(folder, SIGNAL)
    whole = tree(one.path)
    assert one.track("s").blocks[0].layout.shards == 5
    finish, count = Work.finish, [0]

    def stop(*arguments):
        count[0] += 1
        if count[0] % 3 == 0:
            raise KeyboardInterrupt
        finish(*arguments)

    monkeypatch.setattr(Work, "finish", stop)
    for _ in range(9):
        try:
            other = built(folder, SIGNAL, "b.zarr")
        except KeyboardInterrupt:
            continue
        break
    assert tree(other.path) == whole


def test_signals_are_clipped_as_the_formula_says():
    track = Track(name="s", source="a.bw", scale=2.0, power=0.5, soft_clip=3.0)
    block = tracks.Block(0, track, (), None, ("s",), "", None)
    values = np.array([[0.0], [2.0], [50.0], [np.nan], [-8.0]])
    stored = tracks._store(block, "c", 0, values)
    assert stored[:, 0].tolist() == pytest.approx([0, 2, 2 + np.sqrt(8), np.nan, -4], nan_ok=True)
