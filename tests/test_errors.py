"""What an error says, and what of it those who raise it again can use."""

import pickle

from distgen.errors import ConfigError


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
