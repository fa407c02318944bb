"""Stores that are built into an object store while builders are killed and the server fails: nothing half-published."""

import http.client
import http.server
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest

from distgen import config
from distgen.config import Recipe, read
from distgen.errors import ConfigError, RemoteError
from distgen.genome import Interval
from distgen.ingest.objects import locate
from distgen.store import planes
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify
from tests.faults.test_build import UNIT, recipe  # noqa: F401 - fixture
from tests.ingest.test_remote import moto_server, quick, s3  # noqa: F401 - fixtures
from tests.servers import Answering
from tests.store.test_upload import objects, tree

URI = "s3://genomes/stores/a.zarr"
BUILD = f"""
import sys
from distgen.store import planes
planes.UNIT = {UNIT}
from distgen.config import Recipe, read
from distgen.ingest.objects import locate
from distgen.store.build import build
import obstore.store
print("ready", flush=True)
build(read(sys.argv[1], Recipe), locate(sys.argv[2]))
"""


class Proxy(Answering):
    """Hands requests on to moto, and spoils the next of some: `faults` has (method, what the path ends with, fault)."""

    def __init__(self, target):
        self.target, self.faults, self.spoiled, self.lock = urlsplit(target).netloc, [], [], threading.Lock()

    def __enter__(self):
        super().__enter__()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def fault(self, method, path):
        with self.lock:
            for number, (one, end, fault) in enumerate(self.faults):
                if one == method and path.split("?")[0].endswith(end):
                    self.spoiled.append(self.faults.pop(number))
                    return fault
        return None

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        fault = self.fault(handler.command, handler.path)
        if fault == 503:
            handler.send_response(503)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if fault == "reset":
            handler.close_connection = True
            return
        connection = http.client.HTTPConnection(self.target)
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        response = connection.getresponse()
        content = response.read()
        if fault == "lost":  # it is done, and nobody hears of it
            handler.close_connection = True
            return
        handler.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        if fault == "cut":
            handler.close_connection = True


@pytest.fixture
def proxy(s3, moto_server, monkeypatch):  # noqa: F811
    with Proxy(moto_server) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


@pytest.mark.parametrize("fault", [503, "reset", "lost"])
def test_requests_that_fail_while_a_store_is_sent_are_made_again(fault, small_recipe, proxy, s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    ends = ["sequence/c/0", "zarr.json", "zarr.json", "manifest", "manifest"]
    proxy.faults = [("PUT", end, fault) for end in ends] + [("HEAD", "c/0", fault), ("GET", "/genomes", fault)]
    assert build(read(small_recipe, Recipe), locate(URI)) > 0
    if fault == "lost":
        assert ("PUT", "manifest", fault) in proxy.spoiled
        proxy.faults.clear()  # what was put needs no second put
    assert not proxy.faults
    assert objects(s3) == tree(tmp_path / "a.zarr")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("fault", [503, "reset", "cut"])
def test_requests_that_fail_while_a_store_is_read_are_made_again(fault, small_recipe, proxy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "a.zarr", locate(URI)):
        build(read(small_recipe, Recipe), out)
    proxy.faults = [("GET", end, fault) for end in ("manifest", "sequence/c/0", "sequence/c/0", "contigs/length/c/0")]
    store, where = open_store(URI), Interval("chr1", 3, 800)
    assert store.sequence(where) == open_store(tmp_path / "a.zarr").sequence(where)
    assert not verify(store).damage
    assert not proxy.faults


def test_a_server_that_goes_on_failing_is_no_damage_and_publishes_nothing(
    small_recipe,
    proxy,
    s3,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(config.TIMEOUTS, "remote_retry", 0.5)
    proxy.faults = [("PUT", "manifest", 503)] * 100
    again = r"a.zarr/manifest: the server is failing \(HTTP 503\); the same command goes on from here"
    with pytest.raises(RemoteError, match=again):
        build(read(small_recipe, Recipe), locate(URI))
    assert "manifest" not in objects(s3)
    proxy.faults = []
    build(read(small_recipe, Recipe), locate(URI))
    proxy.faults = [("GET", "softmask/c/0", 503)] * 100
    with pytest.raises(RemoteError, match=r"softmask/c/0: the server is failing \(HTTP 503\); try again"):
        verify(open_store(URI))
    proxy.faults = [("HEAD", "manifest", 503)] * 100
    with pytest.raises(RemoteError, match="HTTP 503"):  # a store that cannot be looked at is not taken for none
        build(read(small_recipe, Recipe), locate(URI))


def _start(folder, uri=URI):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, "a.toml", uri], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_a_build_that_is_killed_goes_on_and_sends_the_same_bytes(kills, recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    build(recipe, tmp_path / "a.zarr")
    whole, draw, partly = tree(tmp_path / "a.zarr"), random.Random(kills), 0
    while kills:
        process = _start(tmp_path)
        process.stdout.readline()
        if draw.random() < 0.7:  # somewhere in the sending
            count = draw.randrange(len(whole))
            while process.poll() is None and len(objects_of(s3)) < count:
                time.sleep(0.002)
        else:
            time.sleep(draw.uniform(0, 0.5))
        process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        _, errors = process.communicate()
        assert process.returncode <= 0, errors.decode()
        kills -= 1
        there = objects_of(s3)
        partly += 0 < len(there) < len(whole)
        assert ("manifest" in there) == (len(there) == len(whole))
        if "manifest" in there or draw.random() < 0.3:
            assert "manifest" not in there or not verify(open_store(URI)).damage
            for name in there:
                s3.delete_object(Bucket="genomes", Key=f"stores/a.zarr/{name}")
            for folder in tmp_path.glob(".*"):
                shutil.rmtree(folder)
    assert partly
    build(recipe, locate(URI))
    assert objects(s3) == whole
    assert not list(tmp_path.glob(".*"))


def objects_of(client):
    """The names of the objects of the store."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="genomes", Prefix="stores/a.zarr/")
    return {item["Key"].removeprefix("stores/a.zarr/") for page in pages for item in page.get("Contents", [])}


def test_builders_on_several_machines_leave_one_whole_store(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    build(recipe, tmp_path / "a.zarr")
    builders = []
    for number in range(3):  # machines that share no disk
        shutil.copytree(tmp_path, tmp_path / f"m{number}", ignore=shutil.ignore_patterns("m?", "*.zarr"))
        builders.append(_start(tmp_path / f"m{number}"))
    for builder in builders:
        _, errors = builder.communicate()
        assert builder.returncode == 0, errors.decode()
    assert objects(s3) == tree(tmp_path / "a.zarr")


def test_a_second_builder_on_this_machine_is_refused(recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    from distgen.store.work import Work

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planes, "UNIT", UNIT)
    with Work(locate(URI)).locked(), pytest.raises(ConfigError, match=f"{URI}: another build of this store is running"):
        build(recipe, locate(URI))
