import pickle

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.store.build import build
from distgen.store.cutting import plan_of
from distgen.store.reader import open_store


def test_a_plan_that_travels_cuts_the_same_samples(small):
    plan = plan_of(small, 48, 32, None, "default", ("valid", "train"), ("genes",), 20_000)
    there = pickle.loads(pickle.dumps(plan))
    assert there.describe() == plan.describe()
    assert len(plan.shards()) > 1
    for shard in plan.shards():
        assert list(there.samples(shard)) == list(plan.samples(shard))


def test_parts_come_in_their_order_and_targets_cover_them(small):
    plan = plan_of(small, 48, 32, 16, "default", ("valid", "train"), (), 10**9)
    assert plan.parts == ("train", "valid")
    for part in plan.parts:
        covered = np.zeros(small.length, bool)
        for start, end in small.regions(part).tolist():
            covered[start:end] = True
        for region, count in zip(plan.regions[part], np.diff(plan.ends[part], prepend=0), strict=True):
            first, last = int(region[0]), int(region[0]) + 16 * int(count - 1) + 32
            assert last >= region[1]
            covered[first:last] = False
        assert not covered.any()


def test_tracks_whose_bins_do_not_fit_into_one_another_are_refused(small_recipe, tmp_path):
    (tmp_path / "signal.bedgraph").write_text("chr1\t0\t9\t1\n")
    tables = "".join(
        f'[[track]]\nname = "b{size}"\nsource = "signal.bedgraph"\nbin_bp = {size}\nreduce = "mean"\nabsent = "zero"\n'
        for size in (16, 24)
    )
    small_recipe.write_text(small_recipe.read_text().replace("[split]", tables + "[split]"))
    build(read(small_recipe, Recipe), tmp_path / "s.zarr")
    with pytest.raises(ConfigError, match=r'bins of "b24" \(24 bp\) are no whole bins of "b16" \(16 bp\)'):
        plan_of(open_store(tmp_path / "s.zarr"), 48, None, None, "default", (), ("b16", "b24"), 10**9)
