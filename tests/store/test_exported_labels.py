"""The windows of an export as a table of sequences, with labels where it has one for each."""

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.ingest.tables import SequenceBlock
from distgen.store import exported_labels
from distgen.store.build import build
from distgen.store.exported_labels import read_blocks_of_export
from distgen.store.reader import open_store
from distgen.store.webdataset import export
from tests.conftest import LETTERS
from tests.store.test_exported import original, out, read_all  # noqa: F401 - fixtures


def joined(blocks):
    """Blocks as one."""
    found = list(blocks)
    assert all(isinstance(block, SequenceBlock) for block in found)
    rows = [
        (id, part, block.letters[first:last].tobytes().decode())
        for block in found
        for id, part, first, last in zip(block.ids, block.parts, block.offsets[:-1], block.offsets[1:], strict=True)
    ]
    assert all(len(block.labels) == len(block.ids) and block.offsets[-1] == len(block.letters) for block in found)
    return rows, np.concatenate([block.labels for block in found]), found[0].names, sum(b.missing for b in found)


@pytest.mark.parametrize("memory", [1, 3000, 1 << 22])
def test_blocks_hold_letters_ids_and_parts_of_all_windows(out, memory, monkeypatch):  # noqa: F811
    monkeypatch.setattr(exported_labels, "_BLOCK_BYTES", memory)
    rows, labels, names, missing = joined(read_blocks_of_export(out))
    samples = read_all(out)
    assert rows == [(str(s.where), s.part, s.letters.tobytes().decode()) for s in samples]
    assert len({id for id, _, _ in rows}) == len(rows)
    assert [part for _, part, _ in rows] == sorted((p for _, p, _ in rows), key=["train", "valid", "test"].index)
    assert rows[0] == (
        "chr1:0-60",
        "train",
        "".join(c if c in "ACGTacgt" else "nN"[c < "a"] for c in LETTERS["chr1"][:60]),
    )
    assert (labels.shape, labels.dtype, names, missing) == ((len(rows), 0), np.float32, (), 0)


TABLES = """[[track]]
name = "level"
source = "signal.bedgraph"
bin_bp = 50
reduce = "mean"
absent = "missing"
{more}[split]"""


@pytest.mark.parametrize(
    ("tables", "track", "names", "expected"),
    [
        ("", "level", ("signal",), [[5.0], [np.nan]]),
        ('dtype = "uint8"\nscale = 10.0\n', "level", ("signal",), [[50.0], [np.nan]]),
        ('[[track]]\nname = "peaks"\nsource = "peaks.bed"\nbin_bp = 50\n', "peaks", ("0", "1"), [[0], [1]]),
        (
            '[[track]]\nname = "both"\nsource = "small.gtf"\nclasses = ["cds+", "cds-"]\nbin_bp = 50\n',
            "both",
            ("cds+", "cds-"),
            [[1, 1], [0, 0]],
        ),
    ],
)
def test_one_track_of_one_bin_a_window_makes_labels(small_recipe, tmp_path, tables, track, names, expected):
    (tmp_path / "signal.bedgraph").write_text("chr1\t0\t50\t5\n")
    (tmp_path / "peaks.bed").write_text("chr1\t60\t90\n")
    small_recipe.write_text(small_recipe.read_text().replace("[split]", TABLES.format(more=tables)))
    build(read(small_recipe, Recipe), tmp_path / "s.zarr")
    export(open_store(tmp_path / "s.zarr"), tmp_path / "o", window=60, target_length=50, tracks=(track,))
    rows, labels, found, missing = joined(read_blocks_of_export(tmp_path / "o"))
    assert found == names
    assert labels.dtype == (np.float32 if track == "level" else np.uint8)
    assert np.array_equal(labels[:2], np.array(expected, labels.dtype), equal_nan=track == "level")
    unknown = np.isnan(labels) if track == "level" else labels == 255
    assert missing == unknown.sum() > 0
    short = [(id, part) for id, part, _ in rows if id.startswith("chr3:")]
    assert short == [("chr3:-5-55", "test")]  # seven bases: one short bin, which is a contig's last
