"""Stores of labelled sequences."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError, DistgenError, SourceError
from distgen.genome import Interval
from distgen.ingest.packing import CODES, unpack_codes
from distgen.ingest.tables import SequenceBlock
from distgen.store import planes, sequences
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.rows import text
from distgen.store.verify import describe, verify
from distgen.store.webdataset import export
from distgen.store.work import Work
from tests.store.test_build import tree

HEAD = 'format = 1\n[sequences]\nname = "t"\n'
THREE = 'kind = "binary"\ntrain = "train.csv"\nvalid = "valid.csv"\ntest = "test.csv"\n'
FILES = {
    "train.csv": "name,sequence,label\na,ACGTN,0\nb,ryACGu-,1\n",
    "valid.csv": "name,sequence,label\nc," + "ACGT" * 40 + ",1\n",
    "test.csv": "name,sequence,label\nd,T,NA\n",
}


@pytest.fixture
def made(tmp_path):
    """Builds a store from a recipe's text and its files."""

    def make(text=THREE, files=FILES, out="a.zarr"):
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        (tmp_path / "t.toml").write_text(HEAD + text)
        build(read(tmp_path / "t.toml", Recipe), tmp_path / out)
        return open_store(tmp_path / out)

    return make


def letters(store):
    return [
        store.sequence(Interval(name, 0, int(n)))
        for name, n in zip(store.contigs.names, store.contigs.lengths, strict=True)
    ]


def test_each_sequence_is_a_contig_with_its_label_in_one_part(made):
    store = made()
    assert store.contigs.names == ("0", "1", "2", "3")
    assert letters(store) == ["ACGTN", "NNACGTN", "ACGT" * 40, "T"]
    assert store.contigs.offsets.tolist() == [0, 64, 128, 320]
    assert store.length == 384
    assert store.labels.values.tolist() == [[0], [1], [1], [255]]
    assert (store.labels.kind, store.labels.names, store.labels.missing) == ("binary", ("0", "1"), 1)
    parts = {part: store.regions(part).tolist() for part in ("train", "valid", "test")}
    assert parts == {"train": [[0, 5], [64, 71]], "valid": [[128, 288]], "test": [[320, 321]]}
    assert store.regions(None).tolist() == store.contigs.whole().tolist()
    soft = np.unpackbits(store.planes["softmask"].read(), bitorder="little")
    assert np.flatnonzero(soft).tolist() == [64, 65, 70 - 1]
    assert store.letters == {"0": {"N": 1}, "1": {"R": 1, "Y": 1, "U": 1, "-": 1}}
    assert not verify(store).damage


def test_info_counts_classes_by_part(made):
    shown = describe(made())
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["labels"]["kind"], shown["labels"]["names"], shown["labels"]["missing"]) == ("binary", ["0", "1"], 1)
    assert shown["labels"]["splits"]["default"] == {
        "train": {"sequences": 2, "classes": {"0": 1, "1": 1}},
        "valid": {"sequences": 1, "classes": {"0": 0, "1": 1}},
        "test": {"sequences": 1, "classes": {"0": 0, "1": 0}},
    }
    assert shown["splits"]["default"] == {"train": 12, "valid": 160, "test": 1}


def test_the_same_recipe_gives_the_same_bytes_and_any_zarr_reader_reads_them(made):
    one, two = made(), made(out="b.zarr")
    assert tree(one.path) == tree(two.path)
    group = zarr.open_group(str(one.path), mode="r")
    assert group.attrs["distgen"] == {"format": 1, "assembly": "t", "length": 384, "alignment": 64}
    for key in one.manifest["arrays"]:
        assert np.array_equal(group[key][...], one.array(key).read())


def test_sequences_are_called_by_their_ids_unless_these_repeat(made):
    store = made(THREE + 'id = "name"\n')
    assert store.contigs.names == ("a", "b", "c", "d")
    assert store.sequence(Interval("c", 0, 4)) == "ACGT"
    store = made(THREE + 'id = "name"\n', FILES | {"valid.csv": "name,sequence,label\na,AC,1\n"})
    assert store.contigs.names == ("0", "1", "2", "3")
    assert describe(store)["labels"]["repeated"] == "a"


def test_a_column_says_the_parts_in_any_order(made):
    table = "sequence,label,part\nA,x,test\nC,y,train\nG,x,dev\nT,z,train\n"
    store = made('kind = "classes"\ntable = "t.csv"\nsplit = "part"\n', {"t.csv": table})
    assert {part: store.regions(part)[:, 0].tolist() for part in ("train", "valid", "test")} == {
        "train": [64, 192],
        "valid": [128],
        "test": [0],
    }
    assert store.labels.values.tolist() == [0, 1, 0, 2]
    assert store.labels.names == ("x", "y", "z")


def test_one_table_without_parts_trains_on_all_or_is_split_by_the_recipe(made):
    table = {"t.csv": "sequence,label\n" + "".join(f"{'ACGT' * n},{n}\n" for n in range(1, 41))}
    plain = 'kind = "regression"\ntable = "t.csv"\n'
    assert len(made(plain, table).regions("train")) == 40
    store = made(plain + "[split]\nfolds = 4\n[splits.drawn.fraction]\ntest = 0.2\n", table)
    folds = [store.regions("test", f"default-{k}").tolist() for k in range(4)]
    assert sorted(np.concatenate(folds).tolist()) == store.contigs.whole().tolist()
    for name in (*(f"default-{k}" for k in range(4)), "drawn"):
        parts = [
            store.regions(part, name) for part in ("train", "valid", "test") if store.manifest["splits"][name][part]
        ]
        assert sorted(np.concatenate(parts).tolist()) == store.contigs.whole().tolist()
    assert store.labels.values.dtype == np.float32
    assert store.labels.values[:, 0].tolist() == list(range(1, 41))


def test_a_split_that_is_added_leaves_the_rest_alone(made):
    store = made()
    before = tree(store.path)
    grown = made(THREE + '[splits.other]\nvalid = ["2"]\n')
    assert {name for name, content in tree(grown.path).items() if before.get(name) != content} == {
        "manifest",
        *(name for name in tree(grown.path) if name.startswith("splits/")),
    }
    assert grown.regions("valid", "other").tolist() == [[128, 288]]
    assert grown.regions("train", "other").tolist() == [[0, 5], [64, 71], [320, 321]]
    assert grown.manifest["splits"]["default"] == store.manifest["splits"]["default"]
    again = made(THREE + '[splits.other]\nvalid = ["2"]\n[splits.third]\ntest = ["0"]\n')
    assert again.regions("valid", "other").tolist() == [[128, 288]]
    assert not verify(again).damage


def test_a_file_for_each_class(made):
    files = {"p.fa": ">1\nACG\nT\n>2\nCC\n", "n.fa": ">1\nGG\n"}
    store = made('kind = "binary"\ntrain = { bound = "p.fa", free = "n.fa" }\n', files)
    assert letters(store) == ["ACGT", "CC", "GG"]
    assert store.labels.values.tolist() == [[0], [0], [1]]
    assert store.labels.names == ("bound", "free")


def test_a_table_without_header_takes_columns_by_number(made):
    store = made(
        'kind = "classes"\ntrain = "t.csv"\nlabel = 0\nid = 1\nsequence = 2\n', {"t.csv": "EI,x,ACG\nN,y,CC\n"}
    )
    assert (store.contigs.names, letters(store)) == (("x", "y"), ["ACG", "CC"])


def test_multilabel_and_several_regression_columns(made):
    table = {"t.csv": "sequence,a,b\nA,1,0\nC,0,\n"}
    store = made('kind = "multilabel"\ntrain = "t.csv"\nlabel = ["a", "b"]\n', table)
    assert store.labels.values.tolist() == [[1, 0], [0, 255]]
    store = made('kind = "regression"\ntrain = "t.csv"\nlabel = ["a", "b"]\n', table)
    assert np.array_equal(store.labels.values, [[1, 0], [0, np.nan]], equal_nan=True)


def test_tracks_matrices_and_variants_lie_on_sequences_too(made):
    files = FILES | {"a.bed": "c\t10\t20\n", "m.csv": "id,x\nr,3\n", "r.bed": "c\t4\t8\tr\n"}
    store = made(
        THREE
        + 'id = "name"\n[[track]]\nname = "t"\nsource = "a.bed"\n[[matrix]]\nname = "m"\nmatrix = "m.csv"\nregions = "r.bed"\n',
        files,
    )
    assert store.track("t").decoded.sum() == 10
    assert store.matrix("m").regions.tolist() == [[132, 136]]


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        (THREE + '[assembly]\nname = "x"\nfasta = "x"\n', {}, r"give \[assembly\] or \[sequences\]"),
        (THREE.replace("binary", "bin"), {}, r't\.toml:4: sequences\.kind: "bin" is none of the choices'),
        (THREE + 'table = "train.csv"\n', {}, r"sequences: give train, valid and test, or one table"),
        ('kind = "binary"\n', {}, r"sequences: give train, valid and test, or one table"),
        ('kind = "binary"\ntest = "test.csv"\n', {}, r"sequences: train is missing"),
        (THREE + 'split = "part"\n', {}, r"sequences: split is a column of the one table"),
        (THREE + "[contigs]\nmin_length = 3\n", {}, r"\[contigs\] is about an assembly"),
        (THREE + '[split]\ntest = ["0"]\n', {}, r"\[sequences\] says the parts already"),
        (THREE + "sequence = -1\n", {}, r"t\.toml:8: sequences\.sequence: a column is a name, or a number .*, not -1"),
        (THREE + "label = []\n", {}, r"t\.toml:8: sequences\.label: a column is a name, or a number .*, not \[\]"),
        (THREE + 'seqence = "x"\n', {}, r'there is no key "seqence" here\. Did you mean "sequence"'),
        (THREE.replace("valid.csv", "vald.csv"), {}, r't\.toml:6: sequences\.valid: .*Did you mean "valid\.csv"'),
        (THREE + 'sequence = "seq"\n', {}, r't\.toml:2: sequences: .*train\.csv: no column is called "seq"'),
        (THREE + "sequence = 0\n", {}, r"t\.toml:2: sequences: columns are all given by name, or all by number"),
        (THREE + 'label = ["label", "name"]\n', {}, r'sequences: kind "binary" takes one label column'),
        (THREE, {"valid.csv": "sequence,label\nACXT,1\n"}, r"valid\.csv:2: 'X', letter 3 of the sequence"),
        (THREE, {"valid.csv": "sequence,label\n,1\n"}, r'valid\.csv:2: "" is no sequence'),
        (THREE, {"valid.csv": "sequence,label\nA,2\n"}, r'binary labels are 0 and 1, or two names, but "2"'),
        (THREE, {"valid.csv": "sequence,label\n"}, r"valid\.csv: the file holds no rows below its header"),
        (
            'kind = "binary"\ntable = "p.csv"\nsplit = "part"\n',
            {"p.csv": "sequence,label,part\nA,1,train\nC,0,tset\n"},
            r'p\.csv:3: "tset" is no part of a split\. Did you mean "test"',
        ),
        (
            'kind = "binary"\ntable = "p.csv"\nsplit = "part"\nid = "id"\n',
            {"p.csv": "id,sequence,label,part\nx,A,1,Train\n"},
            r'p\.csv:2: "Train" is no part of a split\. Did you mean "train"',
        ),
        (
            THREE + '[splits.x]\ntest = ["2:10-20"]\n',
            {},
            r"t\.toml:9: splits\.x\.test: a part of a table takes sequences whole",
        ),
        (
            THREE + "[splits.x]\nfraction = { valid = 0.4, test = 0.59 }\n",
            {},
            r"t\.toml:9: splits\.x\.fraction: of \d sequences none is left to train on",
        ),
        (THREE + "[splits.x]\nfolds = 99\n", {}, r"t\.toml:9: splits\.x\.folds: \d sequences make no 99 folds"),
        (THREE + '[splits.x]\ntest = ["9"]\n', {}, r't\.toml:9: splits\.x\.test: no contig matches "9"'),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_published(made, tmp_path, text, files, message):
    with pytest.raises(DistgenError, match=message) as caught:
        made(text, FILES | files)
    assert caught.value.exit_status == 2
    assert not (tmp_path / "a.zarr").exists()


def test_a_recipe_of_nothing_names_both(tmp_path):
    (tmp_path / "t.toml").write_text("format = 1\n")
    with pytest.raises(ConfigError, match=r"give \[assembly\] or \[sequences\]: a store is made of one of the two"):
        read(tmp_path / "t.toml", Recipe)


def test_a_genome_has_no_labels(small):
    with pytest.raises(ConfigError, match="has no labels: it is made of an assembly"):
        _ = small.labels


def test_a_finished_unit_is_not_read_again(made, tmp_path, monkeypatch):
    whole = tree(made(out="whole.zarr").path)
    with monkeypatch.context() as patched:
        patched.setattr(sequences, "place", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(DistgenError, match="nothing was published"):
            made()
    monkeypatch.setattr(sequences, "_Table", lambda *_: pytest.fail("the table was read before"))
    assert tree(made().path) == whole


def test_a_changed_label_builds_anew(made):
    store = made()
    changed = made(files=FILES | {"test.csv": "name,sequence,label\nd,T,1\n"})
    assert changed.labels.values[3].tolist() == [1]
    assert changed.identity("default", ())["labels"] != store.identity("default", ())["labels"]


# ---- blocks -----------------------------------------------------------------------------------


def block(rows, parts=None):
    text = "".join(rows)
    return SequenceBlock(
        [f"s:{i}" for i in range(len(rows))],
        "s:{}".format,
        parts or ["train"] * len(rows),
        np.frombuffer(text.encode(), np.uint8),
        np.cumsum([0, *map(len, rows)]),
        np.zeros((len(rows), 1), np.float32),
        ("y",),
        0,
    )


@given(
    st.lists(
        st.lists(st.text("ACGTUNRacgtun-.", min_size=1, max_size=150), min_size=1, max_size=5), min_size=1, max_size=4
    ),
    st.sampled_from([64, 128, 4096]),
)
def test_blocks_are_packed_as_one_would_by_hand(tmp_path_factory, blocks, compiled_after):
    """Planes, lengths and letters against the sequences taken one by one."""
    work = Work(tmp_path_factory.mktemp("work") / "a.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences.packing, "SMALL", compiled_after)
        sequences.build_from_blocks(map(block, blocks), "regression", work, "u", named=False)
    folder = work.path("u")
    receipt = work.receipt("u")
    arrays = {name: format_array(folder / name, entry) for name, entry in receipt["arrays"].items()}
    rows = [text for texts in blocks for text in texts]
    padded = "".join(text.ljust(-(-len(text) // 64) * 64, "A") for text in rows)
    codes = CODES[np.frombuffer(padded.encode(), np.uint8)]
    assert np.array_equal(unpack_codes(arrays["sequence"]), np.where(codes > 3, 0, codes))
    assert np.array_equal(np.unpackbits(arrays["ambiguous"], bitorder="little"), codes > 3)
    assert np.array_equal(np.unpackbits(arrays["softmask"], bitorder="little"), [c.islower() for c in padded])
    assert arrays["contigs/length"].tolist() == [len(text) for text in rows]
    counted = [
        [row, ord(letter), text.upper().count(letter)]
        for row, text in enumerate(rows)
        for letter in sorted(set(text.upper()) - set("ACGT"))
    ]
    assert arrays["contigs/letters"].tolist() == counted
    assert receipt["about"]["parts"] == {"train": len(rows), "valid": 0, "test": 0}


def format_array(folder, entry):
    from distgen.store.array import Array

    return Array(folder, entry).read()


def test_planes_of_several_shards_are_the_same_planes(made, monkeypatch):
    files = {"t.csv": "sequence,label\n" + "".join(f"{'ACGGT' * 100},{n % 2}\n" for n in range(3000))}
    one = made('kind = "binary"\ntrain = "t.csv"\n', files)
    monkeypatch.setattr(planes, "UNIT", 1 << 19)
    many = made('kind = "binary"\ntrain = "t.csv"\n', files, "b.zarr")
    assert many.planes["sequence"].layout.shards == 3
    assert np.array_equal(one.planes["sequence"].read(), many.planes["sequence"].read())
    assert not verify(many).damage


@pytest.mark.parametrize(
    ("rows", "parts", "message"),
    [
        (["A", ""], None, "s:1: the sequence is empty"),
        (["A", "C*"], None, r"s:1: '\*' is no IUPAC nucleotide letter"),
        (["A", "C"], ["train", "dve"], 's:1: "dve" is no part of a split.*Did you mean "dev"'),
        ([], [], "the table holds no sequence"),
    ],
)
def test_a_bad_block_is_refused_by_row(tmp_path, rows, parts, message):
    blocks = [block(rows, parts)] if rows else []
    with pytest.raises(SourceError, match=message):
        sequences.build_from_blocks(iter(blocks), "regression", Work(tmp_path / "a.zarr"), "u")


@pytest.mark.data
@pytest.mark.parametrize(
    ("recipe", "sizes", "names"),
    [
        ("gue-tf0", (32_378, 1000, 1000), ("0", "1")),
        ("gue-tf1", (30_672, 1000, 1000), ("0", "1")),
        ("gue-tf2", (19_000, 1000, 1000), ("0", "1")),
        ("gue-prom-core-tata", (4904, 613, 613), ("0", "1")),
        ("uci-splice", (3190, 0, 0), ("EI", "IE", "N")),
    ],
)
def test_published_tables(data, tmp_path, recipe, sizes, names):
    from tests.conftest import ROOT

    build(read(ROOT / "shards" / "recipes" / f"{recipe}.toml", Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    assert store.labels.names == names
    assert len(store.contigs) == sum(sizes)
    split = store.manifest["splits"]["default" if "default" in store.manifest["splits"] else "default-0"]
    assert sum(split[part] for part in ("train", "valid", "test")) == sum(sizes)
    assert sizes[1] in (0, split["valid"])
    assert (store.path / "manifest").stat().st_size < 40_000


def test_an_export_with_a_label_for_each_window_is_a_table(small_recipe, tmp_path):
    (tmp_path / "peaks.bed").write_text("chr1\t60\t90\n")
    track = '[[track]]\nname = "peaks"\nsource = "peaks.bed"\nbin_bp = 50\n[split]'
    small_recipe.write_text(small_recipe.read_text().replace("[split]", track))
    build(read(small_recipe, Recipe), tmp_path / "s.zarr")
    found = export(open_store(tmp_path / "s.zarr"), tmp_path / "o", window=60, target_length=50, tracks=("peaks",))
    (tmp_path / "t.toml").write_text(HEAD + 'kind = "binary"\nwebdataset = "o"\n')
    build(read(tmp_path / "t.toml", Recipe), tmp_path / "t.zarr")
    store = open_store(tmp_path / "t.zarr")
    samples = [sample for part in found.parts for sample in found.samples(part)]
    assert store.contigs.names == tuple(str(sample.where) for sample in samples)
    assert letters(store) == [sample.letters.tobytes().decode().upper() for sample in samples]
    assert np.array_equal(store.labels.values, np.concatenate([sample.targets["peaks"] for sample in samples]))
    assert {part: len(store.regions(part)) for part in found.parts} == found.parts
    assert not verify(store).damage
    (tmp_path / "t.toml").write_text(HEAD + 'kind = "regression"\nwebdataset = "o"\n')
    with pytest.raises(ConfigError, match=r't\.toml:2: sequences: .*o has labels of kind "binary", not "regression"'):
        build(read(tmp_path / "t.toml", Recipe), tmp_path / "t.zarr")


def test_an_export_without_labels_is_no_table(small, tmp_path):
    export(small, tmp_path / "o", window=60, tracks=("genes",))
    (tmp_path / "t.toml").write_text(HEAD + 'kind = "multilabel"\nwebdataset = "o"\n')
    with pytest.raises(ConfigError, match=r"t\.toml:2: sequences: .*o has no labels: export one track, with one bin"):
        build(read(tmp_path / "t.toml", Recipe), tmp_path / "t.zarr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('webdataset = "o"\ntable = "a.csv"', "one of the three"),
        ('webdataset = "o"\nlabel = "y"', '"label" does not belong to a webdataset, which has no columns'),
        ('webdataset = "s3://b/o"', "webdataset is a folder on this machine"),
        ('table = "a.csv"\nsplit = "s"\n[split]\nfolds = 3', "the parts already; but for homology, splits go to"),
        (
            'table = "a.csv"\n[split]\nfraction = { test = 0.5 }\n[split.homology]\ntile = 256',
            '"tile" of homology does nothing here: .* stay whole',
        ),
        (
            'table = "a.csv"\n[split]\nfolds = 3\n[split.homology]\naction = "move"',
            '"action" of homology does nothing here: .* drawn by families',
        ),
    ],
)
def test_keys_that_would_do_nothing_are_refused(text, message, tmp_path):
    (tmp_path / "t.toml").write_text(HEAD + f'kind = "binary"\n{text}\n')
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "t.toml", Recipe)


@given(st.lists(st.sampled_from(["a", "bb", "c", "", "é", "ccc"]), min_size=1, max_size=12), st.booleans())
def test_the_first_name_that_is_empty_or_comes_again_is_told_though_hashes_agree(tmp_path_factory, ids, alike):
    names, seen, expected = sequences._Names(tmp_path_factory.mktemp("n")), set(), None
    for name in ids:
        names.add([name])
        expected = name if expected is None and (not name or name in seen) else expected
        seen.add(name)
    if alike:
        names._hashes = [np.zeros_like(hashes) for hashes in names._hashes]
    assert names.repeated() == expected
    if expected is None:
        assert np.array_equal(np.concatenate(list(names.blocks())), text(tuple(ids)))
