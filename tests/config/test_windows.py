import pytest
from pydantic import ValidationError

from distgen.config import Windows


def test_windows_are_all_there_are_unless_a_run_says_otherwise():
    assert Windows.model_validate({}).model_dump() == {"regions": None, "exclude": (), "max_ambiguous": 1.0}
    said = {"regions": {"source": "tss.bed", "at": "tile", "pad": 500}, "exclude": ["black.bed"], "max_ambiguous": 0.1}
    windows = Windows.model_validate(said)
    assert windows.regions.pad == 500
    assert windows.exclude == ("black.bed",)


@pytest.mark.parametrize(
    ("regions", "problem"),
    [
        ({"source": "a.bed", "pad": 3}, 'it goes with at = "tile", not "middle"'),
        ({"source": "matrix:expr", "at": "summit"}, "matrix:expr has no summits: narrowPeak files do"),
        ({"source": "contigs", "at": "summit"}, "contigs has no summits"),
    ],
)
def test_regions_whose_keys_contradict_each_other_are_refused(regions, problem):
    with pytest.raises(ValidationError, match=problem):
        Windows.model_validate({"regions": regions})
