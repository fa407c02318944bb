import hashlib
import os
import sys

import numpy as np
import pytest
import zarr

from distgen.config import Recipe, read
from distgen.errors import ConfigError, DistgenError
from distgen.genome import Interval
from distgen.ingest.packing import unpack_codes
from distgen.store.build import build
from distgen.store.reader import open_store
from tests.conftest import LETTERS, flat_codes


def tree(folder):
    """Every file's bytes, by name."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_a_store_holds_what_the_sources_say(small):
    assert small.contigs.names == ("chr1", "chr2", "chr3")
    assert small.contigs.offsets.tolist() == [0, 896, 1856]
    for name in small.contigs.names:
        letters = "".join(c if c in "ACGT" else "N" for c in LETTERS[name].upper())
        assert small.sequence(Interval(name, 0, len(letters))) == letters
    soft = np.unpackbits(small.planes["softmask"].read(), bitorder="little")
    assert soft[: len(LETTERS["chr1"])].tolist() == [c.islower() for c in LETTERS["chr1"]]
    genes = small.track("genes").decoded
    assert genes.sum(0).tolist() == [11, 26]
    assert genes[14].tolist() == [1, 1]
    assert small.manifest["tracks"]["genes"]["skipped"] == {"chrX": 1}
    assert small.track("genes").swap == (1, 0)


def test_padding_and_ambiguous_bases_are_stored_as_zero(small):
    codes = unpack_codes(small.planes["sequence"].read())
    assert not codes[flat_codes(small) == 4].any()


def test_splits_cover_the_assembly_without_overlap(small):
    parts = {part: small.regions(part) for part in ("train", "valid", "test")}
    assert parts["valid"].tolist() == [[896, 1096]]
    assert parts["test"].tolist() == [[896 + 675, 896 + 900], [1856, 1863]]
    assert sum(int((r[:, 1] - r[:, 0]).sum()) for r in parts.values()) == int(small.contigs.lengths.sum())


def test_zarr_opens_the_whole_store(small):
    group = zarr.open_group(str(small.path), mode="r")
    assert group.attrs["distgen"] == {"format": 1, "assembly": "small", "length": small.length, "alignment": 64}
    for key in small.manifest["arrays"]:
        assert np.array_equal(group[key][...], small.array(key).read())


def test_the_same_recipe_gives_the_same_bytes(small_recipe, tmp_path):
    recipe = read(small_recipe, Recipe)
    build(recipe, tmp_path / "one.zarr")
    build(recipe, tmp_path / "deep" / "two.zarr")
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "deep" / "two.zarr")


def test_a_store_that_is_up_to_date_is_left_alone_and_a_changed_source_builds_anew(small_recipe, tmp_path):
    out = tmp_path / "a.zarr"
    assert build(read(small_recipe, Recipe), out) == sum(map(len, LETTERS.values())) - len(LETTERS["chrM"])
    assert build(read(small_recipe, Recipe), out) == 0
    fasta = tmp_path / "small.fa"
    fasta.write_text(fasta.read_text().replace("GATTACA", "GATTACC"))
    assert build(read(small_recipe, Recipe), out) > 0
    assert open_store(out).sequence(Interval("chr3", 0, 7)) == "GATTACC"
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_is_no_store_is_not_touched(small_recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is no store"):
        build(read(small_recipe, Recipe), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"small.fa"', '"smal.fa"', r'small\.toml:4: assembly\.fasta: .*Did you mean "small\.fa"'),
        ('"small.fa"', '"."', r"small\.toml:4: assembly\.fasta: .* is a folder; name a file in it"),
        ('"small.gtf"', '"nothing.gtf"', r"small\.toml:9: track\[0\]\.source: there is no file"),
        ('fasta = "small.fa"', f'fasta = "small.fa"\nsha256 = "{"0" * 64}"', r"small\.toml:5: assembly\.sha256"),
        ('"chrM"', '"MT"', r'small\.toml:6: contigs\.exclude: no contig matches "MT"'),
        ('"chr3"', '"chr33"', r'small\.toml:13: split\.test: no contig matches "chr33"\. Did you mean "chr3"'),
        ('"chr2:0-200"', '"chr2:0-901"', r"split\.valid: \"chr2:0-901\" is no stretch of chr2, which has 900 bases"),
        ('"chr2:0-200"', '"chr2"', r"split\.test: shares chr2:675-900 with valid"),
        ('["chrM"]', '["chr*"]', r"no contig of small\.fa is left"),
        ('"cds-"', '"cdz-"', r'no feature is a "cdz"'),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key_and_nothing_is_written(small_recipe, tmp_path, old, new, message):
    text = small_recipe.read_text()
    assert old in text
    small_recipe.write_text(text.replace(old, new))
    with pytest.raises(DistgenError, match=message) as caught:
        build(read(small_recipe, Recipe), tmp_path / "out.zarr")
    assert caught.value.exit_status == 2
    assert {p.name for p in tmp_path.iterdir()} <= {"small.fa", "small.gtf", "small.toml", ".out.zarr.building"}


def test_a_damaged_store_is_built_again_when_forced_and_a_damaged_manifest_without(small_recipe, tmp_path):
    recipe, out = read(small_recipe, Recipe), tmp_path / "a.zarr"
    build(recipe, out)
    whole = tree(out)
    (out / "sequence/c/0").unlink()
    assert build(recipe, out) == 0
    assert build(recipe, out, force=True) > 0
    assert tree(out) == whole
    (out / "manifest").write_text("")
    assert build(recipe, out) > 0
    assert tree(out) == whole


def test_a_builder_that_died_between_its_two_renames_loses_nothing(small_recipe, tmp_path):
    recipe, out = read(small_recipe, Recipe), tmp_path / "a.zarr"
    build(recipe, out)
    out.rename(tmp_path / ".a.zarr.old")
    assert build(recipe, out) == 0
    assert open_store(out).name == "small"
    assert not list(tmp_path.glob(".*"))


def test_the_smallest_recipe_trains_on_everything(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n')
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").regions("train").tolist() == [[0, 4]]


def test_a_pattern_may_name_the_old_ncbi_header(tmp_path):
    (tmp_path / "a.fa").write_text(">gi|1|ref|NC_1.1|\nACGT\n>b\nACGT\n")
    (tmp_path / "a.toml").write_text(
        'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[contigs]\nexclude = ["gi|1|*"]\n'
    )
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").contigs.names == ("b",)


def test_a_contig_shorter_than_asked_is_left_out(small_recipe, tmp_path):
    small_recipe.write_text(
        small_recipe.read_text().replace('["chrM"]', '["chrM"]\nmin_length = 100').replace(', "chr3"', "")
    )
    build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").contigs.names == ("chr1", "chr2")


def test_building_needs_no_torch():
    code = "import sys, distgen.store.build, distgen.store.verify; assert not {'torch', 'ray', 'zarr', 'numba', 'obstore'} & set(sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_what_stands_in_a_store_is_not_written_again_when_it_gains_a_track(small, small_recipe, tmp_path):
    before = {path: path.stat() for path in small.path.rglob("*") if path.is_file() and path.name != "manifest"}
    (tmp_path / "small.bed").write_text("chr1\t2\t5\n")
    small_recipe.write_text(small_recipe.read_text() + '[[track]]\nname = "peaks"\nsource = "small.bed"\n')
    build(read(small_recipe, Recipe), small.path)
    assert "peaks" in open_store(small.path).tracks
    for path, was in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns), path
