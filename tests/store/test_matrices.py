"""Matrices joined with their regions."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError, DistgenError
from distgen.genome import Interval
from distgen.ingest.tables import read_matrix
from distgen.store import matrices
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import describe

MATRIX = "id,heart,liver\np2,2.5,-3\np1,1,NA\npM,7,8\n"
BED = "chrM\t0\t3\tpM\nchr2\t5\t900\tp2\nchr1\t0\t10\tp1\t0\t-\n"
TABLE = '[[matrix]]\nname = "expr"\nmatrix = "expr.csv"\nregions = "peaks.bed"\n'


@pytest.fixture
def made(small_recipe):
    """Builds the small recipe with a matrix, its regions, and more keys."""

    def make(matrix=MATRIX, bed=BED, more=""):
        (small_recipe.parent / "expr.csv").write_text(matrix)
        (small_recipe.parent / "peaks.bed").write_text(bed)
        small_recipe.write_text(small_recipe.read_text() + TABLE + more)
        build(read(small_recipe, Recipe), small_recipe.parent / "a.zarr")
        return open_store(small_recipe.parent / "a.zarr")

    return make


def test_rows_lie_in_the_order_of_the_assembly_and_those_on_other_contigs_are_counted(made):
    store = made()
    matrix = store.matrix("expr")
    assert matrix.ids == ("p1", "p2")
    assert matrix.conditions == ("heart", "liver")
    assert matrix.values.dtype == np.float32
    assert np.array_equal(matrix.values, [[1, np.nan], [2.5, -3]], equal_nan=True)
    assert matrix.regions.tolist() == [[0, 10], [896 + 5, 896 + 900]]
    assert matrix.strands.tolist() == [-1, 0]
    assert [matrix.interval(row) for row in (0, 1)] == [Interval("chr1", 0, 10, "-"), Interval("chr2", 5, 900)]
    assert len(matrix) == 2
    assert describe(store)["matrices"]["expr"] == {
        "regions": 2,
        "conditions": ["heart", "liver"],
        "skipped": {"chrM": 1},
        "dropped": {"regions": 0, "matrix": 0},
    }


def test_names_on_one_side_only_are_dropped_and_counted_if_asked(made):
    store = made(MATRIX + "pX,1,1\n", BED + "chr3\t0\t1\tq\nchr3\t1\t2\tq\n", 'missing = "drop"\n')
    assert store.matrix("expr").ids == ("p1", "p2")
    assert store.matrix("expr").values[1].tolist() == [2.5, -3]
    assert store.manifest["matrices"]["expr"]["dropped"] == {"regions": 2, "matrix": 1}


@given(st.permutations(range(8)), st.sets(st.integers(0, 7), min_size=1), st.integers(1, 3), st.integers(1, 200))
def test_rows_in_any_order_come_in_the_order_of_the_regions(tmp_path_factory, file, regions, conditions, block):
    folder = tmp_path_factory.mktemp("m")
    lines = [f"{row}," + ",".join(str(row * 10 + c) for c in range(conditions)) for row in file]
    (folder / "m.csv").write_text("\n".join(["id," + ",".join("abc"[:conditions]), *lines]))
    source, wanted = read_matrix(folder / "m.csv", block), sorted(regions)
    order = np.array([file.index(row) for row in wanted])
    with patch.object(matrices, "PIECE", 4):
        found = np.concatenate(list(matrices._ordered(source, order, folder)))
    assert found.tolist() == [[row * 10 + c for c in range(conditions)] for row in wanted]


@pytest.mark.parametrize(
    ("matrix", "bed", "more", "message"),
    [
        (MATRIX + "pX,1,1\n", BED, "", r"expr\.csv with .*peaks\.bed: 1 identifiers are in the matrix alone: pX"),
        (MATRIX, BED + "chr3\t0\t1\tq\n", "", r"1 identifiers are in the regions alone: q"),
        (MATRIX, BED + "chr3\t0\t1\tp1\n", "", r'identifier "p1" comes twice in the regions'),
        (MATRIX, BED + "chr3\t0\t1\tp1\n", 'missing = "drop"\n', r'identifier "p1" comes twice in the regions'),
        (MATRIX + "p1,1,1\n", BED, "", r'expr\.csv:5: "p1" came before in line 3'),
        (MATRIX.replace("7,8", "one,8"), BED, "", r'expr\.csv:4: "one" is no number'),
        (MATRIX, BED + "chr3\t0\t8\tq\n", "", r"peaks\.bed:4: the region leaves its contig"),
        ("id,a\nz,1\n", BED, 'missing = "drop"\n', r"no identifier of both is on a contig of the assembly"),
        ("id,a\npM,1\n", BED, 'missing = "drop"\n', r"no identifier of both is on a contig of the assembly"),
        (MATRIX, BED, 'missing = "ignore"\n', r'small\.toml:18: matrix\[0\]\.missing: "ignore" is none of the choices'),
        (MATRIX, BED, TABLE, r"two matrices are called"),
        (MATRIX, BED, TABLE.replace('"expr', '"x'), r"small\.toml:20: matrix\[1\]\.matrix: there is no file"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(made, matrix, bed, more, message):
    with pytest.raises(DistgenError, match=message):
        made(matrix, bed, more)


def test_an_unknown_matrix_suggests_the_nearest(made):
    with pytest.raises(ConfigError, match='no matrix "exp".*Did you mean "expr"'):
        made().matrix("exp")
