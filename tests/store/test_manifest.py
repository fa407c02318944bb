import json

import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError, StoreError
from distgen.store.build import build
from distgen.store.reader import open_store


def test_a_missing_store_suggests_its_neighbour(small):
    with pytest.raises(ConfigError, match=r"smal\.zarr does not exist.*Did you mean \".*small\.zarr\""):
        open_store(small.path.parent / "smal.zarr")


def test_a_store_without_manifest_is_no_store(small):
    (small.path / "manifest").unlink()
    with pytest.raises(ConfigError, match="has lost its manifest. Run: distgen build RECIPE --force"):
        open_store(small.path)


def test_another_format_is_refused(small):
    path = small.path / "manifest"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(StoreError, match="has format 2, this version reads 1"):
        open_store(small.path)


def test_a_lost_or_foolish_manifest_is_told_and_the_store_built_anew_by_force(small_recipe, small):
    recipe = read(small_recipe, Recipe)
    (small.path / "manifest").write_text("[1, 2]")
    with pytest.raises(StoreError, match="the manifest is damaged. Run: distgen build RECIPE --force"):
        open_store(small.path)
    build(recipe, small.path)
    (small.path / "manifest").unlink()
    with pytest.raises(ConfigError, match="a store that has lost its manifest: give another --out, or replace it with"):
        build(recipe, small.path)
    assert build(recipe, small.path, force=True) == 1764
    assert open_store(small.path).contigs.names == ("chr1", "chr2", "chr3")


def test_a_folder_that_is_no_store_is_not_suggested_for_itself(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(ConfigError, match=r"b\.zarr has no manifest.*Valid: \S+a\.zarr\.$"):
        open_store(tmp_path / "b.zarr")
