"""What an error says, and what of it those who raise it again can use."""

import pickle

import pytest

from distgen.errors import ConfigError, named


def test_an_error_begins_with_its_key():
    error = ConfigError("3 is no multiple of 2", key="stride")
    assert (str(error), error.key, error.problem) == (
        "stride: 3 is no multiple of 2",
        "stride",
        "3 is no multiple of 2",
    )
    assert str(ConfigError("there is none")) == "there is none"


def test_an_error_of_a_worker_keeps_its_key():
    error = pickle.loads(pickle.dumps(ConfigError("no", key="stride")))
    assert (str(error), error.key, error.problem) == ("stride: no", "stride", "no")


def test_what_is_asked_by_name_is_given_or_the_nearest_name_told():
    tables = {"atac": 1, "genes": 2}
    assert named(tables, "genes", "store a.zarr", "track") == 2
    with pytest.raises(
        ConfigError, match=r'^store a\.zarr has no track "gene"\. Did you mean "genes"\? Valid: atac, genes\.$'
    ):
        named(tables, "gene", "store a.zarr", "track")
