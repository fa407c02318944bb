"""Groups of arrays: columns that grow, and tables that are built once and found again."""

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import DistgenError
from distgen.store import format, matrices, rows
from distgen.store.array import Array
from distgen.store.build import build
from distgen.store.format import Layout
from distgen.store.reader import open_store
from distgen.store.verify import verify
from tests.store.test_build import tree

MATRIX = "id\theart\tliver\np1\t1\tNA\np2\t2.5\t-3\n"
BED = "chr1\t0\t10\tp1\t0\t+\nchr2\t5\t900\tp2\n"
TABLE = '[[matrix]]\nname = "expr"\nmatrix = "expr.tsv"\nregions = "peaks.bed"\n'


@given(
    st.lists(st.lists(st.integers(0, 255), max_size=200), max_size=12), st.sampled_from(["raw", "zstd"]), st.booleans()
)
def test_a_column_that_grows_is_the_array_written_at_once(tmp_path_factory, pieces, codec, sparse):
    folder = tmp_path_factory.mktemp("column")
    layout = Layout((0, 2), np.dtype("<u2"), 4, 16, codec)
    column = rows.Column(folder, layout, sparse=sparse)
    for piece in pieces:
        column.write(np.repeat(np.array(piece, np.int64)[:, None], 2, axis=1))
    entry = column.close()
    expected = np.array([n for piece in pieces for n in piece], np.uint16)
    array = Array(folder, entry)
    assert array.shape == (len(expected), 2)
    assert np.array_equal(array.read(), np.repeat(expected[:, None], 2, axis=1))
    assert np.array_equal(zarr.open_array(str(folder), mode="r")[...], array.read())


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9)))
def test_words_come_back(names):
    assert rows.words(rows.text(tuple(names))) == tuple(names)


@pytest.fixture
def recipe(small_recipe):
    """The small recipe with a matrix."""
    (small_recipe.parent / "expr.tsv").write_text(MATRIX)
    (small_recipe.parent / "peaks.bed").write_text(BED)
    small_recipe.write_text(small_recipe.read_text() + TABLE)
    return small_recipe


def test_the_same_recipe_gives_the_same_bytes_and_any_zarr_reader_reads_them(recipe, tmp_path):
    build(read(recipe, Recipe), tmp_path / "one.zarr")
    build(read(recipe, Recipe), tmp_path / "two.zarr")
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "two.zarr")
    store = open_store(tmp_path / "one.zarr")
    assert not verify(store).damage
    group = zarr.open_group(str(store.path), mode="r")
    for key in store.manifest["arrays"]:
        assert np.array_equal(group[key][...], store.array(key).read(), equal_nan=group[key].dtype.kind == "f")


def test_a_table_that_is_added_is_built_alone_and_one_that_stands_is_kept(recipe, tmp_path, monkeypatch):
    whole, out = recipe.read_text(), tmp_path / "a.zarr"
    recipe.write_text(whole.replace(TABLE, ""))
    build(read(recipe, Recipe), out)
    planes = (out / "sequence/c/0").stat().st_ino
    recipe.write_text(whole)
    build(read(recipe, Recipe), out)
    assert (out / "sequence/c/0").stat().st_ino == planes
    assert open_store(out).matrix("expr").ids == ("p1", "p2")
    build(read(recipe, Recipe), tmp_path / "fresh.zarr")
    grown, fresh = tree(out), tree(tmp_path / "fresh.zarr")
    assert {name for name in grown if grown[name] != fresh.get(name)} == {"manifest"}  # its generation
    recipe.write_text(whole + '[splits.other]\ntest = ["chr1"]\n')
    monkeypatch.setattr(matrices, "_fill", lambda *_: pytest.fail("the matrix is there already"))
    build(read(recipe, Recipe), out)
    assert open_store(out).matrix("expr").values[1].tolist() == [2.5, -3]


def test_new_planes_with_the_same_contigs_keep_the_matrix(recipe, tmp_path, monkeypatch):
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    fasta = tmp_path / "small.fa"
    fasta.write_text(fasta.read_text().replace("GATTACA", "GATTACC"))
    monkeypatch.setattr(matrices, "_fill", lambda *_: pytest.fail("the matrix is there already"))
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").matrix("expr").values[1].tolist() == [2.5, -3]
    assert not verify(open_store(tmp_path / "a.zarr")).damage


def test_a_build_that_stops_in_a_table_keeps_what_was_finished_and_ends_in_the_same_bytes(
    recipe, tmp_path, monkeypatch
):
    build(read(recipe, Recipe), tmp_path / "whole.zarr")
    finish = format.finish_array
    with monkeypatch.context() as patched:
        patched.setattr(format, "finish_array", lambda folder, *rest: _full(folder) or finish(folder, *rest))
        with pytest.raises(DistgenError, match="the build stopped .No space left"):
            build(read(recipe, Recipe), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "whole.zarr")


def _full(folder):
    if "part-" in str(folder) and folder.name == "values":
        raise OSError(28, "No space left on device")


def test_damage_in_a_table_is_found_by_verify(recipe, tmp_path):
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    key = f"{store.manifest['matrices']['expr']['key']}/values"
    shard = store.path / key / "c/0/0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    assert [(where, number) for where, number, _ in verify(store).damage] == [(key, 0)]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5), min_size=1))
def test_words_that_are_decoded_one_by_one_are_those_that_were_written(names):
    found = rows.Words(rows.text(tuple(names)))
    assert list(found) == names
    assert [found[i] for i in range(len(found))] == names
    assert found[1:3] == tuple(names[1:3])
    assert names[-1] in found
