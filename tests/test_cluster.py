"""A Ray cluster that is there: its workers stand in other folders than who asks."""

import secrets
import subprocess
import sys

import pytest

from distgen import cluster as distgen_cluster
from distgen.cluster import Pool
from distgen.errors import TrainError
from distgen.store.reader import open_store
from distgen.store.verify import verify
from tests.test_cli import distgen

HEAD = """
import sys
import ray
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=80 << 20)
print("at", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The address of a cluster of two cores that was started in another folder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
    (tmp_path / "elsewhere").mkdir()
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        cwd=tmp_path / "elsewhere",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = next(line for line in head.stdout if line.startswith("at "))
    yield line.split()[1]
    head.communicate()


@pytest.mark.slow
def test_a_relative_out_is_where_the_command_stands_not_where_the_cluster_does(cluster, small_recipe, tmp_path):
    for letters in ("", "\nACGT"):  # a new store, and one in the place of another
        with (tmp_path / "small.fa").open("a") as file:
            file.write(letters)
        distgen("build", "small.toml", "--out", "out/a.zarr", "--ray-address", cluster, cwd=tmp_path)
        assert not verify(open_store(tmp_path / "out/a.zarr")).damage
    (tmp_path / "small.bed").write_text("chr1\t2\t5\n")
    small_recipe.write_text(small_recipe.read_text() + '[[track]]\nname = "peaks"\nsource = "small.bed"\n')
    distgen("build", "small.toml", "--out", "out/a.zarr", "--ray-address", cluster, cwd=tmp_path)
    assert set(open_store(tmp_path / "out/a.zarr").tracks) == {"genes", "peaks"}
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_cluster_that_cannot_be_joined_is_told_with_what_may_be_missing(monkeypatch):
    import ray

    def refused(**options):
        raise ConnectionError("Failed to connect")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # another test may have left one
    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(TrainError, match="the Ray cluster 127.0.0.1:1 cannot be joined .*RAY_AUTH_TOKEN"):
        Pool()


def test_a_pool_takes_all_cores_of_a_cluster_unless_told(monkeypatch):
    monkeypatch.setattr(distgen_cluster, "connect", lambda cpus: 7)
    assert Pool().workers == 7
    assert Pool(3).workers == 3


def test_shares_of_a_resource_are_counted_without_rounding(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "disk": 1.0}}]
    monkeypatch.setattr(distgen_cluster, "_nodes", lambda: nodes)
    assert distgen_cluster.room({"disk": 0.1}, "PACK") == 10
    assert distgen_cluster.room({"CPU": 3, "disk": 0.3}, "PACK") == 2
