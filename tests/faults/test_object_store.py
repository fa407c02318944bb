"""Object stores that fail, change and vanish while a store is built from them."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from distgen import config
from distgen.config import Recipe, read
from distgen.errors import SourceError
from distgen.ingest import remote
from distgen.ingest.remote import describe, fetch
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify
from tests.conftest import GTF
from tests.ingest.test_remote import BODY, Server, moto_server, quick, s3  # noqa: F401 - fixtures
from tests.store.test_rows import BED, MATRIX, TABLE
from tests.store.test_sequences import FILES, HEAD, THREE
from tests.store.test_variants import RECORDS, vcf

BUCKET = "s3://genomes/small"


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "short", "wrong", "reset", "stall"])
def test_what_passes_is_waited_for(fault, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_read", 0.5 if fault == "stall" else 10.0)
    with Server() as server:
        server.faults = [fault] * 3
        assert fetch(describe(server.uri()), tmp_path).read_bytes() == BODY
        assert len(server.gets()) == 11 + 3


@pytest.mark.parametrize("fault", ["cut", "reset", 503])
def test_a_server_without_ranges_is_asked_for_the_whole_again(fault, tmp_path):
    with Server(ranges=False) as server:
        found = describe(server.uri())
        server.faults = [None] * 6 + [fault] * 2
        assert fetch(found, tmp_path).read_bytes() == BODY


def test_patience_ends(tmp_path):
    with Server() as server:
        found, server.status = describe(server.uri()), 503
        began = time.monotonic()
        with pytest.raises(
            SourceError, match=r"the server is failing \(HTTP 503\); the same command goes on from here"
        ):
            fetch(found, tmp_path)
        assert 1 < time.monotonic() - began < 10


def test_patience_is_counted_from_the_first_failure(tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_retry", 1.0)
    with Server(etag=None) as server:
        found = describe(server.uri())
        server.delay, server.faults = 1.1, ["cut"]  # a body takes longer than the patience
        assert fetch(found, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("conditions", [True, False])
def test_an_object_that_changes_while_it_is_fetched_is_refused(conditions, tmp_path):
    with Server(conditions=conditions) as server:
        found = describe(server.uri())
        server.etag, server.body = '"v2"', BODY[::-1]
        with pytest.raises(SourceError, match="it changed while it was read; the same command fetches it as it is now"):
            fetch(found, tmp_path)
        assert not list(tmp_path.iterdir())
        assert fetch(describe(server.uri()), tmp_path).read_bytes() == BODY[::-1]


def test_no_finished_range_is_fetched_again_after_kill_9(tmp_path):
    script = (
        "import sys; from pathlib import Path; from distgen.ingest import remote; remote.RANGE = 1000\n"
        "remote.fetch(remote.describe(sys.argv[1]), Path(sys.argv[2]))"
    )
    with Server() as server:
        server.delay = 0.8
        process = subprocess.Popen([sys.executable, "-c", script, server.uri(), str(tmp_path)])
        deadline = time.monotonic() + 60
        while not any(b"\1" in file.read_bytes() for file in tmp_path.glob("*.finished")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (marks,) = (file.read_bytes() for file in tmp_path.glob("*.finished"))
        finished = {number for number, mark in enumerate(marks) if mark}
        assert 0 < len(finished) < 11
        time.sleep(1)  # requests of the dead are answered
        server.delay = 0.0
        server.served.clear()
        assert fetch(describe(server.uri()), tmp_path).read_bytes() == BODY
        assert {begin // 1000 for begin, _ in server.served} == set(range(11)) - finished


# ---- builds ---------------------------------------------------------------------------------


@pytest.fixture
def cloud(small_recipe, s3):  # noqa: F811
    """The recipe of the small genome with every source in a bucket."""
    folder = small_recipe.parent
    for name in ("small.fa", "small.gtf"):
        s3.upload_file(str(folder / name), "genomes", f"small/{name}")
    path = folder / "cloud.toml"
    path.write_text(re.sub(r'"(small\.(fa|gtf))"', rf'"{BUCKET}/\1"', small_recipe.read_text()))
    return path


def _files(store):
    return {str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file() and f.name != "manifest"}


def _fetched(monkeypatch):
    """The names of the sources that are fetched from now on."""
    names, real = [], remote._Fetch.run
    monkeypatch.setattr(remote._Fetch, "run", lambda self, path: (names.append(path.name), real(self, path)))
    return names


def test_a_store_built_from_a_bucket_is_the_one_built_from_files(cloud, small_recipe, tmp_path):
    build(read(small_recipe, Recipe), tmp_path / "files.zarr")
    assert build(read(cloud, Recipe), tmp_path / "cloud.zarr") > 0
    files, there = open_store(tmp_path / "files.zarr"), open_store(tmp_path / "cloud.zarr")
    assert not verify(there).damage
    assert _files(files.path) == _files(there.path)
    own = {"provenance", "inputs", "checksum"}
    assert {k: v for k, v in files.manifest.items() if k not in own} == {
        k: v for k, v in there.manifest.items() if k not in own
    }
    entry = there.manifest["provenance"]["sources"][f"{BUCKET}/small.gtf"]
    assert entry["uri"] == f"{BUCKET}/small.gtf"
    assert entry["bytes"] == len(GTF)
    assert re.fullmatch('"[0-9a-f]{32}"', entry["etag"])
    assert not (tmp_path / ".cloud.zarr.building").exists()


def test_a_store_that_is_up_to_date_fetches_nothing(cloud, tmp_path, monkeypatch):
    build(read(cloud, Recipe), tmp_path / "a.zarr")
    names = _fetched(monkeypatch)
    assert build(read(cloud, Recipe), tmp_path / "a.zarr") == 0
    assert names == []


def test_a_new_track_fetches_its_own_source_alone(cloud, s3, tmp_path, monkeypatch):  # noqa: F811
    build(read(cloud, Recipe), tmp_path / "a.zarr")
    s3.put_object(Bucket="genomes", Key="small/peaks.bed", Body=b"chr1\t0\t10\n")
    track = f'[[track]]\nname = "peaks"\nsource = "{BUCKET}/peaks.bed"\n[split]'
    cloud.write_text(cloud.read_text().replace("[split]", track))
    names = _fetched(monkeypatch)
    assert build(read(cloud, Recipe), tmp_path / "a.zarr") > 0
    assert names == ["peaks.bed"]
    assert set(open_store(tmp_path / "a.zarr").tracks) == {"genes", "peaks"}


def test_a_changed_object_rebuilds_what_was_made_of_it(cloud, s3, tmp_path, monkeypatch):  # noqa: F811
    build(read(cloud, Recipe), tmp_path / "a.zarr")
    s3.put_object(Bucket="genomes", Key="small/small.gtf", Body=GTF.replace("\t11\t", "\t12\t").encode())
    names = _fetched(monkeypatch)
    assert build(read(cloud, Recipe), tmp_path / "a.zarr") > 0
    assert names == ["small.gtf"]


def test_a_split_of_a_bed_file_in_a_bucket_is_read(cloud, s3, tmp_path):  # noqa: F811
    s3.put_object(Bucket="genomes", Key="small/valid.bed", Body=b"chr1\t0\t64\n")
    cloud.write_text(cloud.read_text().replace('"chr2:0-200"', f'"{BUCKET}/valid.bed"'))
    build(read(cloud, Recipe), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").manifest["splits"]["default"]["valid"] == [[0, 64]]


def test_matrices_and_variants_in_a_bucket_are_the_same_as_files(cloud, s3, tmp_path, monkeypatch):  # noqa: F811
    content = {"expr.tsv": MATRIX, "peaks.bed": BED, "a.vcf": vcf(RECORDS)}
    for name, text in content.items():
        s3.put_object(Bucket="genomes", Key=f"small/{name}", Body=text.encode())
        (tmp_path / name).write_text(text)
    tables = TABLE + '[[variants]]\nname = "people"\nsource = "a.vcf"\nsamples = ["A"]\n'
    local = tmp_path / "local.toml"
    local.write_text(cloud.read_text() + tables)
    cloud.write_text(cloud.read_text() + re.sub(r'"(?=expr.tsv|peaks.bed|a.vcf)', f'"{BUCKET}/', tables))
    build(read(local, Recipe), tmp_path / "local.zarr")
    build(read(cloud, Recipe), tmp_path / "cloud.zarr")
    one, other = open_store(tmp_path / "local.zarr"), open_store(tmp_path / "cloud.zarr")
    assert one.manifest["arrays"] == other.manifest["arrays"]
    names = _fetched(monkeypatch)
    cloud.write_text(cloud.read_text() + "# the same again\n")
    assert build(read(cloud, Recipe), tmp_path / "cloud.zarr") > 0
    assert names == []


def test_a_table_of_sequences_in_a_bucket_is_read(s3, tmp_path):  # noqa: F811
    for name, text in FILES.items():
        s3.put_object(Bucket="genomes", Key=f"small/{name}", Body=text.encode())
    (tmp_path / "t.toml").write_text(HEAD + re.sub(r'"(?=\w+\.csv)', f'"{BUCKET}/', THREE))
    build(read(tmp_path / "t.toml", Recipe), tmp_path / "t.zarr")
    assert open_store(tmp_path / "t.zarr").labels.values.tolist() == [[0], [1], [1], [255]]


def test_a_source_that_fails_leaves_nothing_published_and_the_next_build_goes_on(small_recipe, tmp_path, monkeypatch):
    out, letters = tmp_path / "a.zarr", (tmp_path / "small.fa").read_bytes()
    monkeypatch.setattr(remote, "RANGE", 200)
    with Server(letters) as server:
        small_recipe.write_text(small_recipe.read_text().replace('"small.fa"', f'"{server.uri()}"'))
        server.faults = [None] * 4 + [503] * 1000
        with pytest.raises(SourceError, match="HTTP 503"):
            build(read(small_recipe, Recipe), out)
        assert not out.exists()
        before, server.faults = set(server.served), []
        server.served.clear()
        assert build(read(small_recipe, Recipe), out) > 0
        assert before
        assert before.isdisjoint(server.served)
    assert not verify(open_store(out)).damage


def test_a_published_store_stays_when_a_source_cannot_be_fetched(cloud, s3, tmp_path):  # noqa: F811
    build(read(cloud, Recipe), tmp_path / "a.zarr")
    before = _files(tmp_path / "a.zarr")
    s3.delete_object(Bucket="genomes", Key="small/small.gtf")
    with pytest.raises(SourceError, match="there is no such object"):
        build(read(cloud, Recipe), tmp_path / "a.zarr")
    assert _files(tmp_path / "a.zarr") == before


def test_credentials_of_a_recipe_are_nowhere_in_the_store(small_recipe, tmp_path, monkeypatch):
    with Server((tmp_path / "small.fa").read_bytes()) as fasta, Server(GTF.encode()) as genes:
        monkeypatch.setenv("GENES", genes.uri("genes.gtf?key=SECRET"))
        text = small_recipe.read_text().replace('"small.fa"', f'"{fasta.uri("a.fa?sig=SECRET", "me:SECRET@")}"')
        small_recipe.write_text(text.replace('source = "small.gtf"', 'source = "$GENES"\nkind = "annotation"'))
        assert build(read(small_recipe, Recipe), tmp_path / "a.zarr") > 0
        files = [file for file in (tmp_path / "a.zarr").rglob("*") if file.is_file()]
        assert files
        assert not [file for file in files if b"SECRET" in file.read_bytes()]
        sources = open_store(tmp_path / "a.zarr").manifest["provenance"]["sources"]
        assert set(sources) == {fasta.uri("a.fa"), "$GENES"}
        assert sources["$GENES"]["uri"] == genes.uri("genes.gtf")


def test_a_wrong_sha256_in_the_recipe_is_refused(cloud, tmp_path):
    cloud.write_text(cloud.read_text().replace("[contigs]", f'sha256 = "{"0" * 64}"\n[contigs]'))
    with pytest.raises(SourceError, match="its SHA-256 is .*, and the recipe wants 000"):
        build(read(cloud, Recipe), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
