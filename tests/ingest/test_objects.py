"""Objects of moto's S3: what is written is written whole and under its condition; places and what is none."""

import pickle
import re
from pathlib import Path

import pytest

from distgen.errors import ConfigError, RemoteError
from distgen.ingest.objects import Object, locate
from tests.ingest.test_remote import moto_server, quick, s3  # noqa: F401 - fixtures

URI = "s3://genomes/stores/a.zarr"


def test_a_place_is_a_path_or_an_object(tmp_path):
    assert locate("a/b.zarr") == Path("a/b.zarr")
    assert locate(tmp_path) == tmp_path
    assert str(locate(f"{URI}/")) == URI
    assert str(locate(URI) / "sequence" / "c/0") == f"{URI}/sequence/c/0"
    assert (locate(URI) / "sequence").name == "sequence"
    assert locate(locate(URI) / "x").name == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://genomes", "s3://genomes names no place in a bucket; write s3://BUCKET/NAME"),
        ("s3:///a.zarr", "names no place in a bucket"),
        ("ftp://host/a.zarr", "a store can lie in s3://, gs://, az:// or in a folder"),
        ("https://host/a.zarr", "a store can lie in s3://, gs://, az:// or in a folder"),
        ("s3:/genomes/a.zarr", "a URI is given as a string; as a path it has lost a slash"),
        ("s3://key:SECRET@genomes/a", "s3://genomes/a: credentials belong into the environment"),
        ("s3://genomes/a?sig=SECRET", "s3://genomes/a: credentials belong into the environment"),
    ],
)
def test_what_names_no_place_is_refused_without_credentials(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        locate(text)
    assert "SECRET" not in str(raised.value)


def test_an_object_is_created_once_and_followed_by_who_knows_it(s3):  # noqa: F811
    item = locate(URI) / "manifest"
    assert not item.is_file()
    with pytest.raises(FileNotFoundError, match=f"{URI}/manifest"):
        item.read()
    assert item.put(b"one", "create")
    assert not item.put(b"two", "create")
    content, meta = item.read()
    assert content == b"one"
    assert item.put(b"three", meta)
    assert not item.put(b"four", meta)
    assert item.put(b"five", "overwrite")
    assert item.read_bytes() == b"five"
    assert bytes(item.read_range(1, 3)) == b"iv"


def test_a_folder_names_what_is_below_it_and_beside_it(s3):  # noqa: F811
    for name in ("a.zarr/zarr.json", "a.zarr/sequence/c/0", "a.zarr2/x", "b.zarr/x"):
        s3.put_object(Bucket="genomes", Key=f"stores/{name}", Body=b"xy")
    assert {name: meta["size"] for name, meta in locate(URI).names().items()} == {"zarr.json": 2, "sequence/c/0": 2}
    assert sorted(locate(URI).beside()) == ["a.zarr", "a.zarr2", "b.zarr"]
    locate(URI).delete(["zarr.json", "sequence/c/0"])
    assert locate(URI).names() == {}


@pytest.mark.parametrize("etag", [None, '"opaque"', '"0123456789abcdef0123456789abcdef"'])
def test_an_object_is_compared_by_md5_or_else_by_content(etag, s3, tmp_path):  # noqa: F811
    path, item = tmp_path / "x", locate(URI) / "x"
    path.write_bytes(b"content")
    assert not item.holds(path, item.find())
    item.put(path, "create")
    meta = item.find()
    assert item.holds(path, {**meta, "e_tag": etag or meta["e_tag"]})
    path.write_bytes(b"CONTENT")
    assert not item.holds(path, {**meta, "e_tag": etag or meta["e_tag"]})
    path.write_bytes(b"longer content")
    assert not item.holds(path, meta)


def test_an_object_goes_to_workers_and_asks_anew_there(s3):  # noqa: F811
    item = locate(URI) / "x"
    item.put(b"here", "create")
    there = pickle.loads(pickle.dumps(item))
    assert (str(there), there.read_bytes()) == (str(item), b"here")
    with pytest.raises(RemoteError):
        (pickle.loads(pickle.dumps(Object("s3://nobucket/x", RemoteError)))).names()


def test_without_permission_to_write_the_message_says_what_to_set(s3, monkeypatch):  # noqa: F811
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.0.1")
    with pytest.raises(RemoteError, match="no permission to write it .*; set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        locate(URI).put(b"x", "create")


def test_a_bucket_that_is_not_there_is_told_from_an_object(s3):  # noqa: F811
    with pytest.raises(RemoteError, match="s3://nobucket/a: there is no such bucket"):
        locate("s3://nobucket/a").names()
    with pytest.raises(RemoteError, match="s3://nobucket/a: there is no such bucket"):
        locate("s3://nobucket/a").put(b"x", "create")


def test_the_objects_of_a_folder_share_its_connections():
    folder = Object("http://127.0.0.1:9/folder")
    one, other = folder / "one", folder / "other"
    assert one._client() is other._client() is folder._client()
