import pytest
from pydantic import ValidationError

from distgen.config import Windows


def test_windows_are_all_there_are_unless_a_run_says_otherwise():
    plain = Windows.model_validate({})
    assert (plain.regions, plain.exclude, plain.max_ambiguous) == (None, (), 1.0)
    said = {"regions": {"source": "tss.bed", "at": "tile", "pad": 500}, "exclude": ["black.bed"], "max_ambiguous": 0.1}
    windows = Windows.model_validate(said)
    assert windows.regions.pad == 500
    assert windows.exclude == ("black.bed",)


def test_what_is_not_tiled_is_not_widened():
    with pytest.raises(ValidationError, match='it goes with at = "tile", not "middle"'):
        Windows.model_validate({"regions": {"source": "a.bed", "pad": 3}})
