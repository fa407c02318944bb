"""Sequences with labels, and matrices."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError, SourceError
from distgen.ingest.tables import join, read_matrix, read_sequences


def write(tmp_path, content, name="a.csv"):
    path = tmp_path / name
    path.write_text(content)
    return path


def read(files, **options):
    """All blocks as one: ids, parts, sequences, labels, names, missing."""
    blocks = list(read_sequences(files, **options))
    sequences = [
        block.letters[start:end].tobytes().decode()
        for block in blocks
        for start, end in zip(block.offsets[:-1], block.offsets[1:], strict=True)
    ]
    assert all(block.offsets[-1] == len(block.letters) for block in blocks)
    assert len({block.names for block in blocks}) == 1
    ids, parts = ([name for block in blocks for name in getattr(block, key)] for key in ("ids", "parts"))
    labels = np.concatenate([block.labels for block in blocks])
    return ids, parts, sequences, labels, blocks[0].names, sum(block.missing for block in blocks)


def read_labels(tmp_path, labels, **options):
    """Labels, names and missing of a table with one label column."""
    rows = "".join(f'ACGT,"{label}"\n' for label in labels)
    return read({"train": write(tmp_path, "sequence,label\n" + rows)}, **options)[3:]


@given(
    st.lists(st.tuples(st.text("ACGTRacgtr", min_size=1, max_size=30), st.integers(0, 2)), min_size=1),
    st.integers(1, 200),
)
def test_sequences_and_labels_come_back_whatever_the_block(tmp_path, rows, block):
    path = write(tmp_path, "".join(f"{'xyz'[label]}, {sequence}\n" for sequence, label in rows))
    ids, parts, sequences, labels, names, _ = read({"train": path}, kind="classes", sequence=1, label=0, block=block)
    assert sequences == [sequence for sequence, _ in rows]
    assert [names[label] for label in labels] == ["xyz"[label] for _, label in rows]
    assert labels.dtype == np.int32
    assert parts == ["train"] * len(rows)
    assert ids == [f"a.csv:{line}" for line in range(1, len(rows) + 1)]


def test_classes_of_all_files_share_one_numbering(tmp_path):
    train, test = write(tmp_path, "sequence,label\nA,b\nC,d\n"), write(tmp_path, "sequence,label\nG,a\nT,d\n", "b.csv")
    _, parts, _, labels, names, _ = read({"train": train, "test": test}, kind="classes")
    assert (parts, labels.tolist(), names) == (["train", "train", "test", "test"], [1, 2, 0, 2], ("a", "b", "d"))


def test_numbered_classes_keep_the_order_of_numbers_and_pandas_floats_are_integers(tmp_path):
    labels, names, missing = read_labels(tmp_path, ["10.0", "9", "", "-1"], kind="classes")
    assert (labels.tolist(), names, missing) == ([2, 1, -1, 0], ("-1", "9", "10"), 1)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (["0", "1", "1"], [0, 1, 1], ("0", "1")),
        (["1", "1"], [1, 1], ("0", "1")),
        (["1.0", "", "0.0", "NaN"], [1, 255, 0, 255], ("0", "1")),
        (["yes", "no", "NA"], [1, 0, 255], ("no", "yes")),
    ],
)
def test_binary_labels_are_0_and_1_or_two_names(tmp_path, labels, expected, names):
    found, found_names, missing = read_labels(tmp_path, labels, kind="binary")
    assert (found.tolist(), found_names) == ([[label] for label in expected], names)
    assert found.dtype == np.uint8
    assert missing == expected.count(255)


def test_one_column_of_many_names_is_multilabel(tmp_path):
    labels, names, missing = read_labels(tmp_path, ["liver;brain", "-", "", "brain"], kind="multilabel")
    assert names == ("brain", "liver")
    assert labels.tolist() == [[1, 1], [0, 0], [255, 255], [1, 0]]
    assert (labels.dtype, missing) == (np.uint8, 1)
    assert read_labels(tmp_path, ["1.0", "0;1", ""], kind="multilabel")[0].tolist() == [[0, 1], [1, 1], [255, 255]]
    assert read_labels(tmp_path, ["x|y", "y"], kind="multilabel", separator="|")[0].tolist() == [[1, 1], [0, 1]]


def test_several_columns_are_multilabel_or_several_regressions(tmp_path):
    path = write(tmp_path, "id,sequence,x,y\ns1,ACGT,0,1\ns2,AC,1.0,NA\n")
    ids, _, _, labels, names, missing = read({"train": path}, kind="multilabel", label=("x", "y"), id="id")
    assert (ids, names, missing, labels.tolist()) == (["s1", "s2"], ("x", "y"), 1, [[0, 1], [1, 255]])
    _, _, _, labels, _, missing = read({"train": path}, kind="regression", label=("y", "x"))
    assert (labels.dtype, labels.shape, missing) == (np.float32, (2, 2), 1)
    assert np.array_equal(labels, [[1, 0], [np.nan, 1]], equal_nan=True)


def test_one_file_may_name_the_part_of_each_row(tmp_path):
    path = write(tmp_path, ">s1|1|train\nACGT\n>s2|0|test\nACG\n", "a.fa")
    ids, parts, sequences, labels, _, _ = read({"": path}, kind="binary", split="split", id="id")
    assert (ids, parts, sequences, labels.tolist()) == (["s1", "s2"], ["train", "test"], ["ACGT", "ACG"], [[1], [0]])


def test_a_file_may_hold_one_class(tmp_path):
    files = {
        "train": {"on": write(tmp_path, ">1\nAC\n>2\nAG\n", "on.fa"), "off": write(tmp_path, ">1\nTT\n", "off.fa")}
    }
    _, _, sequences, labels, names, _ = read(files, kind="binary")
    assert (sequences, labels.tolist(), names) == (["AC", "AG", "TT"], [[1], [1], [0]], ("off", "on"))
    headless = {"train": {"x": write(tmp_path, "s1,ACGT\n")}}
    assert read(headless, kind="classes", sequence=1, label=0)[2] == ["ACGT"]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ("A,1\n,0\n", "binary", 'a.csv:3: "" is no sequence'),
        ("A,1\nNA,0\n", "binary", 'a.csv:3: "NA" is no sequence'),
        ("A,1\nACXT,0\n", "binary", "a.csv:3: 'X', letter 3 of the sequence, is no IUPAC nucleotide letter"),
        ("A,1\nAC T,0\n", "binary", "a.csv:3: ' ', letter 3"),
        ("A,1\nACé,0\n", "binary", "a.csv:3: 'é', letter 3"),
        ("A,1\nA,2\nA,0\n", "binary", 'a.csv:3: binary labels are 0 and 1, or two names, but "2" is among 1, 2, 0'),
        ("A,1\nA,-1\n", "binary", 'a.csv:3: .*"-1" is among 1, -1'),
        ("A,yes\nA,no\nA,maybe\n", "binary", "a.csv:2: .*among yes, no, maybe"),
        ("A,yes\n", "binary", 'a.csv:2: .*"yes" is among yes'),
        ("A,\n", "binary", "all labels are missing"),
        ("A,NA\n", "classes", "all labels are missing"),
        ("A,1\nA,high\n", "regression", 'a.csv:3: "high" is no number'),
        ("A,x\nA,x;;y\n", "multilabel", 'a.csv:3: "x;;y" has an empty name beside a ";"'),
        ("A,1,2\n", "binary", 'a.csv:2: .*"2" is among 2'),
        ("A,1\nA,1,2\n", "binary", "a.csv:3: 3 fields where the table has 2 columns"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, rows, kind, message):
    with pytest.raises((SourceError, ConfigError), match=message):
        read({"train": write(tmp_path, "sequence,label\n" + rows)}, kind=kind)


def test_a_multilabel_column_holds_0_and_1(tmp_path):
    path = write(tmp_path, "sequence,x,y\nA,0,1\nA,0,2\n")
    with pytest.raises(SourceError, match='a.csv:3: "2" is neither 0 nor 1'):
        read({"train": path}, kind="multilabel", label=("x", "y"))


def test_a_row_without_a_part_is_refused(tmp_path):
    path = write(tmp_path, "sequence,label,part\nA,0,train\nA,1,\n")
    with pytest.raises(SourceError, match='a.csv:3: "" names no part'):
        read({"": path}, kind="binary", split="part")


def test_numbers_by_the_thousand_are_no_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.ingest.tables._MOST_CLASSES", 10)
    with pytest.raises(SourceError, match="more than 10 classes; are the labels of another kind"):
        read_labels(tmp_path, map(str, range(11)), kind="classes")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"train": None}, {"kind": "binary", "label": 1}, "all given by name, or all by number"),
        ({"train": None}, {"kind": "classes", "label": ("x", "y")}, 'kind "classes" takes one label column, not 2'),
        ({"": None}, {"kind": "binary"}, "needs a column that names the part of each row"),
        ({"train": None}, {"kind": "binary", "split": "part"}, "one file for all parts, and no other"),
        ({"train": None}, {"kind": "binry"}, 'no kind of label is called "binry". Did you mean "binary"'),
        ({"train": {"x": None}}, {"kind": "regression"}, "a file for each class is for the kinds binary and classes"),
    ],
)
def test_columns_that_do_not_fit_the_kind_are_refused(files, options, message):
    with pytest.raises(ConfigError, match=message):
        read(files, **options)


# ---- matrices ---------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 100), st.randoms())
def test_a_matrix_comes_block_by_block_and_whole(tmp_path, conditions, rows, block, random):
    values = np.array(
        [[random.choice([np.nan, random.uniform(-9, 9)]) for _ in range(conditions)] for _ in range(rows)], np.float32
    )
    text = "gene\t" + "\t".join(f"c{i}" for i in range(conditions)) + "\n"
    for name, row in enumerate(values):
        text += f"g{name}\t" + "\t".join("NA" if np.isnan(value) else repr(float(value)) for value in row) + "\n"
    path = write(tmp_path, text, "m.tsv")
    found = read_matrix(path, block)
    assert found.ids == tuple(f"g{name}" for name in range(rows))
    assert found.conditions == tuple(f"c{i}" for i in range(conditions))
    read = np.concatenate(list(found.blocks()))
    assert read.dtype == np.float32
    assert np.array_equal(read, values, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x\na,1\nb,2\na,3\n", 'm.csv:4: "a" came before in line 2'),
        ("id,x\na,1\n,2\n", "m.csv:3: the row has no identifier"),
        ("id,x\na,1\nb,many\n", 'm.csv:3: "many" is no number'),
        ("id,x\na,1\nb,1,2\n", "m.csv:3: 3 fields"),
        ("id,x,x\na,1,2\n", "must name each condition once; it has x, x"),
        ("id,x,\na,1,2\n", "must name each condition once"),
        ("id\na\n", "must name each condition once; it has none"),
        ("id,x\n", "holds no row"),
    ],
)
def test_a_malformed_matrix_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        list(read_matrix(write(tmp_path, text, "m.csv")).blocks())


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (
            "abc",
            "abxyzuvw",
            "6 identifiers are in the regions alone: x, y, z, u, v; 1 identifiers are in the matrix alone: c",
        ),
        ("ab", "aba", 'identifier "a" comes twice in the regions'),
        ("aba", "ab", 'identifier "a" comes twice in the matrix'),
    ],
)
def test_identifiers_on_one_side_only_or_twice_are_refused(found, wanted, message):
    with pytest.raises(SourceError, match=f"m.csv: {message}"):
        join(found, wanted, "m.csv")


def test_joining_says_where_each_identifier_stands():
    assert join("abc", "cab", "m.csv").tolist() == [2, 0, 1]


# ---- real tables ------------------------------------------------------------------------------


@pytest.mark.data
def test_real_tables_read_whole(data):
    folder = data / "sequences"
    uci = read({"train": folder / "uci_splice/splice.data"}, kind="classes", sequence=2, label=0, id=1)
    assert uci[0][0] == "ATRINS-DONOR-521"
    assert {len(sequence) for sequence in uci[2]} == {60}
    assert dict(zip(uci[4], np.bincount(uci[3]).tolist(), strict=True)) == {"EI": 767, "IE": 768, "N": 1655}
    mpra = folder / "yeast_promoter_mpra/Native_complex.csv.gz"
    labels = read({"test": mpra}, kind="regression", label=("Measured Expression", "Predicted Expression"))[3]
    assert labels.shape == (3733, 2)
    assert np.corrcoef(labels.T)[0, 1] == pytest.approx(0.961, abs=5e-4)
    gue = {part: folder / f"gue_tf/0/{part}.csv.gz" for part in ("train", "dev", "test")}
    expected = sum(len(gzip.decompress(path.read_bytes()).splitlines()) - 1 for path in gue.values())
    assert len(read(gue, kind="binary")[0]) == expected
    layer = folder / "ienhancer/layer1"
    files = {
        part: {"1": layer / f"{part}_enhancers.fa", "0": layer / f"{part}_nonenhancers.fa"}
        for part in ("train", "test")
    }
    _, parts, _, labels, names, _ = read(files, kind="binary")
    assert (parts.count("train"), parts.count("test"), int(labels.sum()), names) == (2968, 400, 1684, ("0", "1"))
