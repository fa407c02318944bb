"""Stores and exports in moto's S3: the same bytes as on a disk, and nothing overwritten."""

import re

import numpy as np
import pytest
import zarr
import zarr.storage

from distgen import cli
from distgen.config import Recipe, read
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.genome import Interval
from distgen.ingest.objects import Object, locate
from distgen.store import ranges, upload
from distgen.store.build import build
from distgen.store.exported import read_export
from distgen.store.reader import open_store
from distgen.store.repair import compare, repair
from distgen.store.verify import describe, prune, verify
from distgen.store.webdataset import export
from tests.ingest.test_remote import moto_server, quick, s3  # noqa: F401 - fixtures
from tests.store.test_rows import BED, MATRIX, TABLE
from tests.store.test_sequences import FILES, HEAD, THREE

URI = "s3://genomes/stores/a.zarr"
PEAKS = '[[track]]\nname = "peaks"\nsource = "a.bed"\n[split]'


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def objects(client, uri=URI):
    """The content of every object below a URI, by name."""
    prefix = uri.removeprefix("s3://genomes/") + "/"
    items = client.list_objects_v2(Bucket="genomes", Prefix=prefix).get("Contents", [])
    bodies = {item["Key"]: client.get_object(Bucket="genomes", Key=item["Key"])["Body"].read() for item in items}
    return {key.removeprefix(prefix): body for key, body in bodies.items()}


@pytest.fixture
def recipe(small_recipe, s3, monkeypatch):  # noqa: F811
    """The file of a recipe, in the folder where builds run."""
    monkeypatch.chdir(small_recipe.parent)
    (small_recipe.parent / "a.bed").write_text("chr1\t0\t10\n")
    return small_recipe


def add_track(recipe):
    recipe.write_text(recipe.read_text().replace("[split]", PEAKS))


def written(monkeypatch):
    """The names of the objects that are written from now on."""
    names, put = [], Object.put
    monkeypatch.setattr(
        Object, "put", lambda item, *rest: names.append(str(item).removeprefix(f"{URI}/")) or put(item, *rest)
    )
    return names


def hidden(folder):
    return [path.name for path in folder.glob(".*")]


# ---- building ---------------------------------------------------------------------------------


def test_a_store_in_a_bucket_is_the_one_on_disk(recipe, s3, tmp_path):  # noqa: F811
    bases = build(read(recipe, Recipe), tmp_path / "a.zarr")
    assert build(read(recipe, Recipe), locate(URI)) == bases
    assert objects(s3) == tree(tmp_path / "a.zarr")
    assert not hidden(tmp_path)
    assert build(read(recipe, Recipe), locate(URI)) == 0


def test_a_table_of_sequences_and_its_new_split_too(s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "t.toml").write_text(HEAD + THREE)
    for extra in ("", "[splits.other]\nfraction = { valid = 0.5 }\n"):
        (tmp_path / "t.toml").write_text(HEAD + THREE + extra)
        for out in (tmp_path / "a.zarr", locate(URI)):
            build(read(tmp_path / "t.toml", Recipe), out)
        assert objects(s3) == tree(tmp_path / "a.zarr")


def test_a_new_track_is_sent_alone_and_nothing_of_the_store_is_read(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    for out in (tmp_path / "a.zarr", locate(URI)):
        build(read(recipe, Recipe), out)
    add_track(recipe)
    names, ranges, get = written(monkeypatch), [], Object.read_range
    monkeypatch.setattr(Object, "read_range", lambda item, *span: ranges.append(str(item)) or get(item, *span))
    for out in (tmp_path / "a.zarr", locate(URI)):
        build(read(recipe, Recipe), out)
    assert {name.rsplit("/c/", 1)[0].split(".")[0] for name in names} == {"tracks/peaks", "manifest"}
    assert not [name for name in ranges if "/contigs/" not in name]
    assert names[-1] == "manifest"
    assert objects(s3) == tree(tmp_path / "a.zarr")
    assert open_store(URI).manifest["generation"] == 2
    assert not verify(open_store(URI)).damage


def test_matrices_of_a_store_in_a_bucket_stay_when_one_is_added(recipe, s3, tmp_path):  # noqa: F811
    (tmp_path / "expr.tsv").write_text(MATRIX)
    (tmp_path / "peaks.bed").write_text(BED)
    for text in (recipe.read_text() + TABLE, recipe.read_text() + TABLE + TABLE.replace('"expr"', '"more"', 1)):
        recipe.write_text(text)
        for out in (tmp_path / "a.zarr", locate(URI)):
            build(read(recipe, Recipe), out)
        assert objects(s3) == tree(tmp_path / "a.zarr")


def test_what_was_sent_before_is_not_sent_again(recipe, s3, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patched:
        patched.setattr(upload, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(read(recipe, Recipe), locate(URI))
    with pytest.raises(ConfigError, match=f"store {URI} has no manifest: it is no whole store"):
        open_store(URI)
    assert hidden(recipe.parent)
    names = written(monkeypatch)
    assert build(read(recipe, Recipe), locate(URI)) > 0
    assert names == ["manifest"]
    assert not hidden(recipe.parent)


def test_a_builder_that_is_late_says_so_and_its_next_build_adds_what_is_missing(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    first = read(recipe, Recipe)
    add_track(recipe)
    second, send = read(recipe, Recipe), upload.send

    def meanwhile(*arguments, **options):
        send(*arguments, **options)
        monkeypatch.setattr(upload, "send", send)
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        build(first, locate(URI))
        monkeypatch.chdir(tmp_path)

    monkeypatch.setattr(upload, "send", meanwhile)
    with pytest.raises(StoreError, match="another builder was first, and has published"):
        build(second, locate(URI))
    there = open_store(URI)
    assert set(there.tracks) == {"genes"}
    assert not verify(there).damage
    assert [name.split(".")[0] for name in describe(there)["unused"]] == ["tracks/peaks"]
    assert build(second, locate(URI)) > 0
    assert set(open_store(URI).tracks) == {"genes", "peaks"}
    assert describe(open_store(URI))["unused"] == []


def test_prune_removes_what_only_an_earlier_recipe_used(recipe, s3):  # noqa: F811
    text = recipe.read_text()
    add_track(recipe)
    build(read(recipe, Recipe), locate(URI))
    recipe.write_text(text)
    build(read(recipe, Recipe), locate(URI))
    whole = objects(s3)
    assert [name.split(".")[0] for name in prune(locate(URI))] == ["tracks/peaks"]
    assert {name for name in whole if name not in objects(s3)} == {name for name in whole if "peaks" in name}
    assert not verify(open_store(URI)).damage


def test_another_sequence_overwrites_nothing_unless_forced(recipe, s3, tmp_path):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    whole = objects(s3)
    fasta = tmp_path / "small.fa"
    fasta.write_text(fasta.read_text().replace("GATTACA", "GATTACC"))
    with pytest.raises(ConfigError, match=f"{URI} holds another sequence, or other contigs, .*--force"):
        build(read(recipe, Recipe), locate(URI))
    assert objects(s3) == whole
    assert build(read(recipe, Recipe), locate(URI), force=True) > 0
    assert open_store(URI).sequence(Interval("chr3", 0, 7)) == "GATTACC"
    assert not verify(open_store(URI)).damage


def test_while_a_store_is_replaced_it_is_none(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    fasta = tmp_path / "small.fa"
    fasta.write_text(fasta.read_text().replace("GATTACA", "GATTACC"))
    with monkeypatch.context() as patched:
        patched.setattr(upload, "_send", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(read(recipe, Recipe), locate(URI), force=True)
    with pytest.raises(ConfigError, match="has no manifest"):
        open_store(URI)
    build(read(recipe, Recipe), locate(URI), force=True)
    assert open_store(URI).sequence(Interval("chr3", 0, 7)) == "GATTACC"


def test_what_another_build_left_is_not_overwritten_unless_forced(recipe, s3):  # noqa: F811
    s3.put_object(Bucket="genomes", Key="stores/a.zarr/sequence/c/0", Body=b"of another")
    with pytest.raises(ConfigError, match=f"{URI}/sequence/c/0 is there, and is not what was built"):
        build(read(recipe, Recipe), locate(URI))
    assert objects(s3) == {"sequence/c/0": b"of another"}
    build(read(recipe, Recipe), locate(URI), force=True)
    assert not verify(open_store(URI)).damage


def test_objects_that_are_no_store_are_not_touched(recipe, s3):  # noqa: F811
    s3.put_object(Bucket="genomes", Key="stores/a.zarr/thesis.txt", Body=b"years of work")
    with pytest.raises(ConfigError, match=f"{URI} is no store, it holds thesis.txt"):
        build(read(recipe, Recipe), locate(URI), force=True)
    assert objects(s3) == {"thesis.txt": b"years of work"}


def test_a_damaged_manifest_is_told_and_replaced_when_forced(recipe, s3, tmp_path):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    whole = objects(s3)
    s3.put_object(Bucket="genomes", Key="stores/a.zarr/manifest", Body=b"{}")
    with pytest.raises(StoreError, match=f"store {URI} has format None"):
        build(read(recipe, Recipe), locate(URI))
    build(read(recipe, Recipe), locate(URI), force=True)
    assert objects(s3) == whole


def test_credentials_of_the_environment_are_nowhere_in_the_store(recipe, s3, monkeypatch):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    content = b"".join(objects(s3).values())
    assert b"AKIATEST" not in content
    assert b"127.0.0.1" not in content


# ---- reading and mending ------------------------------------------------------------------------


def test_a_store_in_a_bucket_reads_as_the_one_on_disk(recipe, s3, tmp_path):  # noqa: F811
    for out in (tmp_path / "a.zarr", locate(URI)):
        build(read(recipe, Recipe), out)
    here, there = open_store(tmp_path / "a.zarr"), open_store(URI)
    assert there.contigs.names == here.contigs.names
    for text in ("chr1:3-800", "chr2:0-900", "chr3:1-6"):
        contig, span = text.split(":")
        where = Interval(contig, *map(int, span.split("-")), "-")
        assert np.array_equal(there.codes(where), here.codes(where))
    assert np.array_equal(there.track("genes")[5:50], here.track("genes")[5:50])
    for key in here.manifest["arrays"]:
        assert np.array_equal(there.array(key).read(), here.array(key).read())
    assert describe(there) | {"store": ""} == describe(here) | {"store": ""}
    assert verify(there) == verify(here)
    assert not there.array("sequence").mapped


def test_zarr_reads_a_store_in_a_bucket(recipe, s3, tmp_path, moto_server):  # noqa: F811
    from obstore.store import S3Store

    build(read(recipe, Recipe), locate(URI))
    bucket = S3Store("genomes", prefix="stores/a.zarr", client_options={"allow_http": True})
    group, store = zarr.open_group(zarr.storage.ObjectStore(bucket, read_only=True), mode="r"), open_store(URI)
    assert group.attrs["distgen"]["assembly"] == "small"
    for key in store.manifest["arrays"]:
        assert np.array_equal(group[key][...], store.array(key).read())


def test_every_object_that_is_missing_or_damaged_is_found_never_served_and_mended(recipe, s3):  # noqa: F811
    add_track(recipe)
    build(read(recipe, Recipe), locate(URI))
    whole = objects(s3)
    for number, (name, content) in enumerate(whole.items()):
        if number % 2 and name != "manifest":
            s3.delete_object(Bucket="genomes", Key=f"stores/a.zarr/{name}")
        elif name != "manifest":
            body = content[:-1] + bytes([content[-1] ^ 1])
            s3.put_object(Bucket="genomes", Key=f"stores/a.zarr/{name}", Body=body)
    with pytest.raises(StoreError, match=f"{URI}/contigs/.* is damaged"):
        open_store(URI).codes(Interval("chr1", 0, 10))
    damage = verify(open_store(URI)).damage
    assert len(damage) == len(whole) - 1 - len([name for name in ("contigs/length/c/0",) if name not in whole])
    assert repair(read(recipe, Recipe), locate(URI)).damage == damage
    assert objects(s3) == whole
    assert compare(read(recipe, Recipe), locate(URI)) == []


def test_a_chunk_that_changes_after_it_was_read_is_not_served(recipe, s3, monkeypatch):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    store = open_store(URI)
    store.codes(Interval("chr1", 0, 10))
    content = objects(s3)["sequence/c/0"]
    s3.put_object(Bucket="genomes", Key="stores/a.zarr/sequence/c/0", Body=b"\xff" + content[1:])
    ranges._block.cache_clear()
    with pytest.raises(StoreError, match="is damaged"):
        store.codes(Interval("chr1", 0, 10))


def test_the_nearest_store_is_named(recipe, s3):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    with pytest.raises(
        ConfigError, match=re.escape(f'b.zarr does not exist. Run: distgen build RECIPE. Did you mean "{URI}"?')
    ):
        open_store("s3://genomes/stores/b.zarr")


# ---- exports ------------------------------------------------------------------------------------


def test_an_export_to_a_bucket_is_the_one_on_disk(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    arguments = {"window": 64, "tracks": ("genes",), "shard_bytes": 8000}
    for out in (tmp_path / "x", locate("s3://genomes/x")):
        found = export(open_store(URI), out, **arguments)
    assert objects(s3, "s3://genomes/x") == tree(tmp_path / "x")
    assert len(found.shards) > 3
    assert not hidden(tmp_path)
    names = written(monkeypatch)
    assert export(open_store(URI), locate("s3://genomes/x"), **arguments).index == found.index
    assert names == []


def test_an_export_that_was_stopped_goes_on_with_the_shards_that_are_missing(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    store, out = open_store(tmp_path / "a.zarr"), locate("s3://genomes/x")
    send, left = upload.send, [3]

    def stop(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        send(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(upload, "send", stop)
        with pytest.raises(KeyboardInterrupt):
            export(store, out, window=64, shard_bytes=8000)
    before = set(objects(s3, "s3://genomes/x"))
    assert len(before) == 3
    gone = sorted(before)[0]
    s3.delete_object(Bucket="genomes", Key=f"x/{gone}")
    names = written(monkeypatch)
    export(store, out, window=64, shard_bytes=8000)
    assert not {name.rsplit("/", 1)[1] for name in names} & (before - {gone})
    export(store, tmp_path / "x", window=64, shard_bytes=8000)
    assert objects(s3, "s3://genomes/x") == tree(tmp_path / "x")


def test_an_export_is_not_put_among_others(recipe, s3, tmp_path):  # noqa: F811
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    store, out = open_store(tmp_path / "a.zarr"), locate("s3://genomes/x")
    s3.put_object(Bucket="genomes", Key="x/thesis.txt", Body=b"years of work")
    with pytest.raises(ConfigError, match="s3://genomes/x exists and is no export; give another --out"):
        export(store, out, window=64)
    with pytest.raises(ConfigError, match="shard_bytes: 1000000000 is more than is sent at once"):
        export(store, out, window=64, shard_bytes=10**9)


def test_a_damaged_shard_of_an_export_in_a_bucket_is_told(recipe, s3, tmp_path):  # noqa: F811
    build(read(recipe, Recipe), tmp_path / "a.zarr")
    store, out = open_store(tmp_path / "a.zarr"), locate("s3://genomes/x")
    export(store, out, window=64)
    with pytest.raises(ConfigError, match="is not on this machine: copy it here"):
        next(read_export(out).samples("train"))
    body = objects(s3, "s3://genomes/x")["train-000000.tar"]
    s3.put_object(Bucket="genomes", Key="x/train-000000.tar", Body=body[:-1] + b"x")
    with pytest.raises(SourceError, match="s3://genomes/x/train-000000.tar is damaged .sha256 .*export again"):
        export(store, out, window=64)


# ---- the command line -----------------------------------------------------------------------------


def test_every_command_takes_a_uri(recipe, s3, capsys):  # noqa: F811
    assert cli.run(["build", "small.toml", "--out", URI, "--dry-run"]) == 0
    assert f"in {URI}" in capsys.readouterr().out
    assert cli.run(["build", "small.toml", "--out", URI, "--prune"]) == 0
    assert capsys.readouterr().out.startswith(f"{URI}: 1,764 bases in ")
    assert cli.run(["info", URI]) == 0
    assert f"small ({URI})" in capsys.readouterr().out
    assert cli.run(["verify", URI, "--deep", "small.toml"]) == 0
    assert capsys.readouterr().out.startswith(f"{URI}: whole (")
    s3.delete_object(Bucket="genomes", Key="stores/a.zarr/sequence/c/0")
    assert cli.run(["verify", URI]) == 1
    assert f"{URI}/sequence/c/0 is damaged (the shard is missing or empty)" in capsys.readouterr().err
    assert cli.run(["repair", "small.toml", "--out", URI]) == 0
    assert f"{URI}: whole, 1 mended" in capsys.readouterr().out
    assert cli.run(["export", URI, "--out", "s3://genomes/x", "--window", "64"]) == 0
    assert "s3://genomes/x: train " in capsys.readouterr().out


def test_what_cannot_be_reached_is_no_damage(recipe, s3, monkeypatch, capsys):  # noqa: F811
    build(read(recipe, Recipe), locate(URI))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert cli.run(["verify", URI]) == 1
    assert f"error: {URI}/manifest: its host cannot be reached" in capsys.readouterr().err
