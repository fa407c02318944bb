"""What a recipe says of sources and splits."""

import pytest

from distgen.config import Recipe, is_bed, read, source_name
from distgen.errors import ConfigError
from tests.config.test_file import write


def _remote(tmp_path, uri):
    track = f'[[track]]\nname = "t"\nsource = "{uri}"\n'
    return read(write(tmp_path, f'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n{track}'), Recipe)


def test_the_query_of_a_uri_is_no_part_of_the_name(tmp_path):
    recipe = _remote(tmp_path, "https://me:pw@host/a/signal.bw?sig=a/b.bed")
    assert recipe.track[0].kind == "signal"
    assert recipe.track[0].names == ("signal",)
    assert is_bed("s3://b/valid.bed.gz")
    assert source_name("gs://b/c/d.fa.gz") == "d.fa.gz"


def test_a_remote_source_is_fetched_when_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET", "s3://b")
    recipe, fetched = _remote(tmp_path, "$BUCKET/a.bw"), []
    with pytest.raises(
        ConfigError, match=r"track\[0\]\.source: s3://b/a\.bw is not on this machine; distgen build fetches"
    ):
        recipe.resolve("$BUCKET/a.bw", "track.0.source")
    there = recipe.fetching(lambda uri: fetched.append(uri) or tmp_path / "there")
    assert there.resolve("$BUCKET/a.bw", "track.0.source") == tmp_path / "there"
    assert there.resolve("a.fa", "assembly.fasta") == tmp_path / "a.fa"
    assert fetched == ["s3://b/a.bw"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/a.bw", "ftp://host/a.bw: .*Valid: s3, gs, az, https, http. A file is named by its path"),
        ("s3://key:SECRET@bucket/a.bw", "s3://bucket/a.bw: credentials belong into the environment"),
        ("https://me:SEC?RET@host/a.bw", "this is no valid URI; in a password, @ is written %40"),
        ("https://me:SEC RET@host/a.bw", "this is no valid URI"),
        ("s3://bucket/", "s3://bucket/ names no file; write s3://BUCKET/NAME"),
        ("s3://bucket", "s3://bucket names no file"),
        ("https://host/a/..", "https://host/a/.. names no file"),
    ],
)
def test_a_uri_that_names_no_source_is_refused(tmp_path, uri, message):
    recipe = _remote(tmp_path, "a.bw")
    with pytest.raises(ConfigError, match=message) as raised:
        recipe.uri(uri, "track.0.source")
    assert "SEC" not in str(raised.value)


def test_a_source_of_unknown_kind_is_told_without_its_credentials(tmp_path):
    with pytest.raises(ConfigError, match='kind is missing: "https://host/a.xyz" does not tell it') as raised:
        _remote(tmp_path, "https://me:SECRET@host/a.xyz?sig=SECRET")
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("splits", "name"),
    [
        ('[splits.cv]\nfolds = 3\n[splits."cv-0"]\ntest = ["chr1"]\n', "cv-0"),
        ('[split]\nfolds = 3\n[splits."default-2"]\ntest = ["chr1"]\n', "default-2"),
    ],
)
def test_a_fold_and_a_split_of_one_name_are_refused(tmp_path, splits, name):
    text = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
    with pytest.raises(ConfigError, match=f'two splits are called "{name}"'):
        read(write(tmp_path, text + splits), Recipe)
    assert read(write(tmp_path, text + splits.replace(f'"{name}"', '"other-0"')), Recipe)
