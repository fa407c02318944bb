"""Any place of a bgzip file without an index beside it, against the whole content."""

import gzip
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import SourceError
from distgen.ingest import bgzf
from distgen.ingest.open import content_size, read_blocks
from distgen.store import planes
from distgen.store.build import build
from tests.store.test_planes import bgzip

CONTENT = np.random.default_rng(0).integers(65, 90, 300_000, np.uint8).tobytes()


@given(st.integers(0, 300_100), st.integers(0, 300_100), st.sampled_from([1000, 1 << 20]))
def test_any_stretch_is_the_contents_own(tmp_path, start, stop, block):
    path = tmp_path / "a.bgz"
    path.write_bytes(bgzip(CONTENT))
    assert b"".join(read_blocks(path, block, start, max(start, stop))) == CONTENT[start : max(start, stop)]
    assert b"".join(read_blocks(path, block, start)) == CONTENT[start:]


def test_indexes_beside_a_bgzip_genome_are_not_needed_and_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "UNIT", 1 << 19)
    letters = np.frombuffer(b"ACGTacgtN", np.uint8)[np.random.default_rng(1).integers(0, 9, (4, 600_000))]
    text = b"".join(b">chr%d\n%s\n" % (n, row.tobytes()) for n, row in enumerate(letters))
    for name in ("without", "stale"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.fa.gz").write_bytes(bgzip(text))
        (tmp_path / name / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa.gz"\n')
    (tmp_path / "stale/a.fa.gz.fai").write_text("chr9\t7\t3\t60\t61\n")
    (tmp_path / "stale/a.fa.gz.gzi").write_bytes(b"\xff" * 24)
    begun = []

    def anywhere(tasks, progress):
        begun.append(len(tasks))
        return [task(progress) for task in reversed(tasks)][::-1]

    build(read(tmp_path / "without/a.toml", Recipe), tmp_path / "without.zarr")
    build(read(tmp_path / "stale/a.toml", Recipe), tmp_path / "stale.zarr", execute=anywhere, parallel=2)
    assert max(begun) > 4  # tasks that each begin at a place of their own
    files = {p.relative_to(tmp_path / "without.zarr") for p in (tmp_path / "without.zarr").rglob("*") if p.is_file()}
    for file in files - {Path("manifest")}:
        assert (tmp_path / "stale.zarr" / file).read_bytes() == (tmp_path / "without.zarr" / file).read_bytes()


def test_sizes_are_told_by_the_blocks(tmp_path):
    (tmp_path / "a.bgz").write_bytes(bgzip(CONTENT))
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT))
    assert content_size(tmp_path / "a.bgz") == len(CONTENT)
    assert content_size(tmp_path / "a.gz") is None
    assert bgzf.index(tmp_path / "a.gz") is None


def test_what_htslib_wrote_is_read_from_any_place(tmp_path):
    with pysam.BGZFile(str(tmp_path / "a.bgz"), "w") as file:
        file.write(CONTENT)
    assert content_size(tmp_path / "a.bgz") == len(CONTENT)
    for start in (0, 1, 65_279, 65_280, 200_000, len(CONTENT) - 1):
        assert b"".join(read_blocks(tmp_path / "a.bgz", start=start)) == CONTENT[start:]


def test_a_damaged_block_is_named(tmp_path):
    content = bytearray(bgzip(CONTENT))
    second = int.from_bytes(content[16:18], "little") + 1
    content[second] ^= 1
    (tmp_path / "a.bgz").write_bytes(content)
    with pytest.raises(SourceError, match=f"the bgzip block at byte {second:,} is damaged"):
        bgzf.index(tmp_path / "a.bgz")
