"""A store of format 1 that was built once and is never built again: whatever changes, it must be read as it is written here."""

from pathlib import Path

import numpy as np
import pytest

from distgen.genome import Interval
from distgen.store.reader import open_store
from distgen.store.verify import verify

GOLDEN = Path(__file__).parent.parent / "data/golden/golden.zarr"


def test_the_golden_store_is_whole():
    assert not verify(open_store(GOLDEN)).damage


def test_its_contigs_are_those_of_its_source():
    store = open_store(GOLDEN)
    assert store.contigs.names == ("chr1", "chr2", "plasmid")
    assert store.contigs.lengths.tolist() == [300, 70, 33]
    assert store.contigs.offsets.tolist() == [0, 320, 448]
    assert store.contigs.aliases == ("one I", "two II", "")
    assert store.contigs.circular == (False, False, True)
    assert store.letters == {"chr1": {"N": 40, "R": 1, "Y": 1}, "plasmid": {"U": 1}}


def test_its_bases_are_those_of_its_source():
    store = open_store(GOLDEN)
    letters = {}
    for record in (GOLDEN.parent / "golden.fa").read_text().split(">")[1:]:
        header, *lines = record.split("\n")
        letters[header.split()[0]] = "".join(lines)
    for name, text in letters.items():
        expected = text.upper().replace("U", "T").replace("R", "N").replace("Y", "N")
        assert store.sequence(Interval(name, 0, len(text))) == expected
        row = store.contigs.index(name)
        offset = int(store.contigs.offsets[row])
        soft = np.unpackbits(store.planes["softmask"].read(), bitorder="little")[offset : offset + len(text)]
        assert soft.tolist() == [letter.islower() for letter in text]
    assert store.sequence(Interval("plasmid", 30, 36)) == (letters["plasmid"][30:] + letters["plasmid"][:3]).upper()


def test_its_tracks_and_splits_are_what_they_were():
    store = open_store(GOLDEN)
    genes = store.track("genes")
    assert (genes.columns, genes.bin_bp, genes.swap) == (("cds+", "cds-", "tss"), 1, (1, 0, 2))
    assert genes.decoded.sum(0).tolist() == [60, 21, 2]
    signal = store.track("signal")
    assert signal.decoded.dtype == np.float16
    assert np.flatnonzero(~np.isnan(signal.decoded[:, 0])).tolist() == [0, 1, 10, *range(30, 37)]
    assert signal.restore(signal.decoded)[[0, 1, 10, 30], 0].tolist() == pytest.approx([4, 0.25, 100, -1], rel=1e-3)
    assert store.manifest["tracks"]["genes"]["skipped"] == {"chrUn": 1}
    assert store.regions("test").tolist() == [[320, 390]]
    assert store.regions("valid", "drawn").tolist() == [[100, 150], [200, 250]]
    assert store.manifest["generation"] == 1
