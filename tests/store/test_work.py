"""What a build tells of its progress, and how it puts a store into its place."""

import errno
import gzip
import os
import shutil
import stat
from pathlib import Path

import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.genome import Interval
from distgen.ingest.open import consumed
from distgen.store import work
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.work import Part, silent
from tests.store.test_build import tree
from tests.test_cli import distgen


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress])
def test_all_bytes_of_the_sources_are_told_whatever_their_compression(small_recipe, tmp_path, packed):
    for name in ("small.fa", "small.gtf"):
        (tmp_path / name).write_bytes(packed((tmp_path / name).read_bytes()))
    told, expected = [], []

    def progress(amount, read=0):
        told.append((amount, read))

    build(read(small_recipe, Recipe), tmp_path / "a.zarr", progress, expect=expected.append)
    sizes = [(tmp_path / name).stat().st_size for name in ("small.fa", "small.gtf")]
    assert expected == [sum(sizes), sum(sizes)]
    assert sum(read for _, read in told) == sum(sizes)
    assert sum(amount for amount, _ in told) > 1764  # bases of the planes, and of the track
    small_recipe.write_text(small_recipe.read_text().replace('["cds+", "cds-"]', '["cds+", "exon"]'))
    build(read(small_recipe, Recipe), tmp_path / "a.zarr", silent, expect=expected.append)
    assert expected[2:] == [sizes[1]]


def test_a_part_is_told_once_however_often_its_source_is_read(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    told = []
    part = Part(lambda amount, read=0: told.append(read), [tmp_path / "a"], passes=2)
    with part.reading():
        consumed(50)
        consumed(150)
        consumed(500)
    consumed(1)
    part.reach(0.3)
    assert told == [25, 75]
    assert part.share == 1


def test_a_store_behind_a_link_stays_on_its_disk_however_often_it_is_built_anew(small_recipe, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.zarr").symlink_to("disk/b.zarr")
    for letters in ("ACGT", "ACGA", "ACGG", "ACGC"):
        (tmp_path / "small.fa").write_text(f">chr1\n{letters * 225}\n>chr2\n{letters * 225}\n>chr3\nACG\n>chrM\nA\n")
        build(read(small_recipe, Recipe), tmp_path / "a.zarr")
        assert open_store(tmp_path / "disk/b.zarr").sequence(Interval("chr1", 0, 4)) == letters
        assert (tmp_path / "a.zarr").is_symlink()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["b.zarr"]


def test_a_link_that_an_earlier_version_left_goes_away(small_recipe, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / ".a.zarr.old").symlink_to("disk")
    build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    build(read(small_recipe, Recipe), tmp_path / "a.zarr", force=True)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("out", [".", "/", ""])
def test_what_can_be_no_store_is_refused_in_one_line(small_recipe, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="exists and is no store|cannot be a store: name a folder below it"):
        build(read(small_recipe, Recipe), Path(out))


def test_a_file_system_that_flushes_no_folders_is_built_upon(small_recipe, tmp_path, monkeypatch):
    fsync = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    assert build(read(small_recipe, Recipe), tmp_path / "a.zarr") == 1764


def test_what_fails_after_publishing_is_not_called_unpublished(small_recipe, tmp_path, monkeypatch):
    build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    monkeypatch.setattr(work.shutil, "rmtree", _failing(work.shutil.rmtree, ".a.zarr.old"))
    with pytest.raises(StoreError, match="a.zarr is published, but .*/.a.zarr.old cannot be tidied up .Input/output"):
        build(read(small_recipe, Recipe), tmp_path / "a.zarr", force=True)


def _failing(function, name):
    def called(path, *rest, **named):
        if Path(path).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        function(path, *rest, **named)

    return called


def test_a_mistake_in_the_recipe_says_where_is_kept_what_is_finished(small_recipe, tmp_path):
    text = small_recipe.read_text()
    small_recipe.write_text(text.replace("chr2:0-200", "chr4"))
    with pytest.raises(ConfigError, match="chr4") as mistake:
        build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    waits = f"What is finished waits in {tmp_path}/.a.zarr.building, and the next build goes on from there"
    assert mistake.value.__notes__ == [waits]
    said = distgen("build", "small.toml", "--out", "a.zarr", cwd=tmp_path, expect=2)
    assert said.endswith(f". {waits}\n")
    assert said.count("\n") == 1
    small_recipe.write_text(text)
    build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    (tmp_path / "small.fa").write_text("nothing")
    with pytest.raises(SourceError) as raised:
        build(read(small_recipe, Recipe), tmp_path / "b.zarr")
    assert not hasattr(raised.value, "__notes__")
    assert not list(tmp_path.glob(".*"))


def test_a_builder_that_dies_while_it_tidies_up_leaves_no_half_of_a_unit(small_recipe, tmp_path, monkeypatch):
    recipe = read(small_recipe, Recipe)
    build(recipe, tmp_path / "right.zarr")
    rmtree = shutil.rmtree

    def dies(folder, **how):
        if folder.name != ".a.zarr.building":
            return rmtree(folder, **how)
        for receipt in folder.rglob("receipt.json"):
            receipt.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe, tmp_path / "a.zarr")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "a.zarr")
    build(recipe, tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "right.zarr")
    assert not (tmp_path / ".a.zarr.building").exists()
