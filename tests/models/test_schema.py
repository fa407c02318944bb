import json
from dataclasses import asdict

import pytest

from distgen.models.schema import Schema


@pytest.mark.parametrize("swap", [None, (), (("a", "b"),)])
@pytest.mark.parametrize("window", [None, 101])
def test_a_schema_comes_back_from_json_as_it_was(swap, window):
    schema = Schema(("A", "C"), ("a", "b"), window, swap)
    assert Schema.read(json.loads(json.dumps(asdict(schema)))) == schema


def test_what_was_kept_before_windows_had_answers_is_read():
    assert Schema.read({"inputs": ["A"], "outputs": ["a"]}) == Schema(("A",), ("a",))
