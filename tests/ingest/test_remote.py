"""Remote sources against a small web server that can be told to fail, and against moto's S3."""

import os
import re
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import config
from distgen.errors import SourceError
from distgen.ingest import open as ingest_open
from distgen.ingest import remote
from distgen.ingest.remote import describe, fetch
from tests.servers import Answering

BODY = np.random.default_rng(0).integers(0, 256, 10_500, np.uint8).tobytes()
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class Server(Answering):
    """A web server of one file. `faults` are used up, one for each GET; `ranges_served` has what was sent in full."""

    def __init__(self, body=BODY, etag='"v1"', modified=None, ranges=True, conditions=True, status=None, head=None):
        self.body, self.etag, self.modified, self.ranges, self.conditions = body, etag, modified, ranges, conditions
        self.status, self.head, self.faults, self.requests, self.served = status, head, [], [], []
        self.lock, self.delay = threading.Lock(), 0.0

    def uri(self, name="genome.fa", login=""):
        return f"http://{login}127.0.0.1:{self.port}/d/{name}"

    def gets(self):
        return [request for request in self.requests if request[0] == "GET"]

    def answer(self, handler):
        with self.lock:
            self.requests.append((handler.command, handler.path, dict(handler.headers)))
            fault = self.faults.pop(0) if self.faults and handler.command == "GET" else None
        if handler.command == "GET":
            time.sleep(self.delay)
        status = fault if isinstance(fault, int) else self.head if handler.command == "HEAD" else self.status
        wanted, match = handler.headers.get("Range"), handler.headers.get("If-Match")
        if not status and self.conditions and match and match != self.etag:
            status = 412
        if status:
            return self.send(handler, status, {"Content-Length": "0"}, b"")
        begin, end, headers = 0, len(self.body), {}
        if wanted and self.ranges:
            begin, end = (int(part) for part in re.findall(r"\d+", wanted))
            begin, end = (begin + 1, end + 2) if fault == "wrong" else (begin, end + 1)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(self.body)}"
        body = self.body[begin:end]
        headers |= {"Content-Length": str(len(body))}
        headers |= {k: v for k, v in (("ETag", self.etag), ("Last-Modified", self.modified)) if v}
        if fault == "reset":
            return handler.connection.shutdown(socket.SHUT_RDWR)
        if fault == "short":  # a body as long as it declares, which is less than the range
            body, headers["Content-Length"] = body[:-1], str(len(body) - 1)
        self.send(handler, 206 if wanted and self.ranges else 200, headers, body, fault)
        if handler.command == "GET" and fault is None:
            self.served.append((begin, end))

    def send(self, handler, status, headers, body, fault=None):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[: len(body) // 2] if fault in ("cut", "stall") else body)
        if fault == "stall":
            time.sleep(2)
        if fault in ("cut", "stall"):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small ranges, short patience."""
    monkeypatch.setattr(remote, "RANGE", 1000)
    for name, seconds in {"remote_host": 0.3, "remote_read": 10.0, "remote_retry": 3.0}.items():
        monkeypatch.setitem(config.TIMEOUTS, name, seconds)


@pytest.fixture(scope="session")
def moto_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(moto_server, monkeypatch):
    """A client of an empty bucket `genomes`; the environment points to its server."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": moto_server,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="genomes")
    yield client
    for item in client.list_objects_v2(Bucket="genomes").get("Contents", []):
        client.delete_object(Bucket="genomes", Key=item["Key"])
    client.delete_bucket(Bucket="genomes")


# ---- what comes is what is there --------------------------------------------------------------


@settings(max_examples=20)
@given(size=st.one_of(st.integers(0, 3500), st.sampled_from([0, 1, 999, 1000, 1001, 3000])), ranges=st.booleans())
def test_the_local_file_is_the_remote_one_whatever_its_size(size, ranges):
    with Server(BODY[:size], ranges=ranges) as server, tempfile.TemporaryDirectory() as folder:
        path = fetch(describe(server.uri("a%20b.fa.gz?sig=SECRET")), Path(folder))
        assert path.name == "a%20b.fa.gz"
        assert path.read_bytes() == BODY[:size]
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_many_ranges_is_fetched_range_by_range_each_once(tmp_path):
    with Server() as server:
        fetch(describe(server.uri()), tmp_path)
        assert sorted(server.served) == [(n, min(n + 1000, 10_500)) for n in range(0, 10_500, 1000)]
        assert all(headers["if-match"] == '"v1"' for _, _, headers in server.gets())


def test_what_is_fetched_is_not_fetched_again(tmp_path):
    with Server() as server:
        found = describe(server.uri())
        fetch(found, tmp_path)
        count = len(server.requests)
        fetch(found, tmp_path)
        assert len(server.requests) == count


def test_an_object_of_s3_comes_whole(s3, tmp_path):
    s3.put_object(Bucket="genomes", Key="yeast/my genome.fa", Body=BODY)
    found = describe("s3://genomes/yeast/my genome.fa")
    assert found.size == len(BODY)
    path = fetch(found, tmp_path)
    assert path.name == "my genome.fa"
    assert path.read_bytes() == BODY


# ---- identity -------------------------------------------------------------------------------


def test_a_source_is_described_by_one_request_without_its_content():
    with Server() as server:
        assert describe(server.uri()).entry() == {"uri": server.uri(), "bytes": 10_500, "etag": '"v1"'}
        assert [command for command, _, _ in server.requests] == ["HEAD"]


def test_without_an_etag_the_date_of_change_tells_versions_apart(tmp_path):
    with Server(etag=None, modified=DATE) as server:
        found = describe(server.uri())
        assert found.entry() == {"uri": server.uri(), "bytes": 10_500, "modified": "2015-10-21T07:28:00+00:00"}
        assert fetch(found, tmp_path).read_bytes() == BODY
        assert all(headers["if-unmodified-since"] == DATE for _, _, headers in server.gets())


def test_without_etag_and_date_the_content_tells_versions_apart(tmp_path):
    with Server(etag=None) as server:
        found = describe(server.uri())
        assert found.blake3 == blake3(BODY).hexdigest()
        assert fetch(found, tmp_path).read_bytes() == BODY
        server.body = BODY[::-1]
        with pytest.raises(SourceError, match="it changed while it was read; the same command fetches it as it is now"):
            fetch(found, tmp_path / "other")


def test_a_weak_etag_is_compared_and_never_sent(tmp_path):
    with Server(etag='W/"v1"') as server:
        found = describe(server.uri())
        assert fetch(found, tmp_path).read_bytes() == BODY
        assert not any("if-match" in headers for _, _, headers in server.gets())
        server.etag = 'W/"v2"'
        with pytest.raises(SourceError, match="it changed while it was read"):
            fetch(found, tmp_path / "other")


def test_a_signed_url_that_allows_get_alone_is_described_by_its_first_byte(tmp_path):
    with Server(head=403) as server:
        found = describe(server.uri("genome.fa?X-Signature=SECRET"))
        assert found.size == 10_500
        assert fetch(found, tmp_path).read_bytes() == BODY
        assert all(path.endswith("?X-Signature=SECRET") for _, path, _ in server.requests)


def test_the_same_file_with_another_signature_is_the_same_source():
    with Server() as server:
        one, other = (describe(server.uri(f"genome.fa?sig={sig}")) for sig in ("a", "b"))
        assert one.entry() == other.entry()


def test_a_wrong_sha256_is_refused_and_what_was_fetched_forgotten(tmp_path):
    with Server() as server:
        with pytest.raises(SourceError, match="its SHA-256 is [0-9a-f]{64}, and the recipe wants 0{64}; put the right"):
            fetch(describe(server.uri(), "0" * 64), tmp_path)
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]
        good = tmp_path / "body"
        good.write_bytes(BODY)
        found = describe(server.uri(), ingest_open.sha256(good))
        assert fetch(found, tmp_path).read_bytes() == BODY
        assert found.entry()["sha256"] == found.sha256


# ---- what can be wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, r"the server refuses the request \(HTTP 400\)"),
        (401, "no permission to read it; give a URI that may be read"),
        (403, "no permission to read it; give a URI that may be read"),
        (404, "there is no such file"),
        (412, "it changed while it was read"),
        (429, r"the server is failing \(HTTP 429\); the same command goes on from here"),
        (503, r"the server is failing \(HTTP 503\); the same command goes on from here"),
    ],
)
def test_each_answer_of_a_server_is_explained_without_credentials(status, message, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_retry", 0.2)
    with Server(status=status, head=status) as server:
        secret = "".join(("SEC", "RET"))  # as no line of a traceback has it
        with pytest.raises(SourceError, match=message) as raised:
            describe(server.uri(f"genome.fa?sig={secret}", f"me:{secret}@"))
        assert str(raised.value).startswith(f"{server.uri()}: ")
        assert "SECRET" not in "".join(traceback.format_exception(raised.value))


def test_user_and_password_of_a_uri_are_sent_and_never_shown():
    with Server() as server:
        found = describe(server.uri(login="me:p%40SECRET@"))
        assert server.requests[0][2]["authorization"] == "Basic bWU6cEBTRUNSRVQ="
        assert "SECRET" not in f"{found!r} {found.entry()} {found.shown}"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/a.fa", "http://host.invalid/a.fa"])
def test_a_host_that_cannot_be_reached_is_named_soon(uri):
    began = time.monotonic()
    with pytest.raises(SourceError, match=f"{uri}: its host cannot be reached; correct the URI, or see to the network"):
        describe(uri)
    assert time.monotonic() - began < 5


def test_a_missing_object_is_answered_with_the_nearest_name(s3):
    s3.put_object(Bucket="genomes", Key="yeast/sacCer3.fa.gz", Body=b"x")
    nearest = 'no such object. Did you mean "yeast/sacCer3.fa.gz"?'
    with pytest.raises(SourceError, match=re.escape(f"s3://genomes/yeast/saccer3.fa.gz: there is {nearest}")):
        describe("s3://genomes/yeast/saccer3.fa.gz")
    with pytest.raises(SourceError, match=re.escape(nearest)):
        describe("s3://genomes/yaest/sacCer3.fa.gz")


def test_a_missing_bucket_is_told_from_a_missing_object(s3):
    with pytest.raises(SourceError, match="s3://genomez/a.fa: there is no such bucket"):
        describe("s3://genomez/a.fa")


def test_an_object_without_permission_says_what_to_set(s3, monkeypatch):
    s3.put_object(Bucket="genomes", Key="a.fa", Body=b"x")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(SourceError, match="no permission to read it .*; set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        describe("s3://genomes/a.fa")


def test_without_credentials_the_message_says_what_to_set(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.0.1")
    with pytest.raises(SourceError, match="no permission to read it .*; set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        describe("s3://genomes/a.fa")


def test_a_name_no_object_can_have_is_refused(s3):
    with pytest.raises(SourceError, match="s3://genomes/a//b.fa: this is no name an object can have"):
        describe("s3://genomes/a//b.fa")


def test_a_container_without_account_says_what_to_set(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(
        SourceError, match="az://box/a.fa: no store can be opened there; set AZURE_STORAGE_ACCOUNT_NAME"
    ):
        describe("az://box/a.fa")


def test_without_obstore_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(SourceError, match=re.escape("s3://b/a.fa: remote sources need obstore: pip install 'distgen[")):
        describe("s3://b/a.fa")


def test_a_disk_too_small_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with Server() as server:
        with pytest.raises(
            SourceError, match=r"its 10,500 bytes cannot be kept in .*No space left.*; 10 bytes are free"
        ):
            fetch(describe(server.uri()), tmp_path)
        assert not server.gets()


@pytest.mark.parametrize("name", ["genome.fa", "part", "finished"])
def test_a_disk_that_fills_up_keeps_what_is_finished(name, tmp_path, monkeypatch):
    real, written = os.pwrite, []

    def pwrite(file, data, offset):
        if len(data) > 1:
            written.append(offset)
            if len(written) > 5:
                raise OSError(28, "No space left on device")
        return real(file, data, offset)

    with Server() as server:
        found = describe(server.uri(name))
        with monkeypatch.context() as patched:
            patched.setattr(remote.os, "pwrite", pwrite)
            with pytest.raises(SourceError, match="No space left on device.*free some, and the same command goes on"):
                fetch(found, tmp_path)
        server.served.clear()
        assert fetch(found, tmp_path).read_bytes() == BODY
        assert {begin for begin, _ in server.served}.isdisjoint(written[:5])


def test_marks_of_bytes_that_are_gone_count_for_nothing(tmp_path, monkeypatch):
    def full(file, data, offset):
        if len(data) > 1 and offset:
            raise OSError(28, "No space left on device")
        return real(file, data, offset)

    real = os.pwrite
    with Server() as server:
        found = describe(server.uri("genome.fa"))
        with monkeypatch.context() as patched:
            patched.setattr(remote.os, "pwrite", full)
            with pytest.raises(SourceError, match="No space left on device"):
                fetch(found, tmp_path)
        (part,) = tmp_path.glob("*.part")
        part.unlink()
        assert any(next(tmp_path.glob("*.finished")).read_bytes())
        assert fetch(found, tmp_path).read_bytes() == BODY
