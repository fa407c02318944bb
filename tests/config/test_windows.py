import pytest
from pydantic import ValidationError

from distgen.config import Lengths, Windows, check_lengths
from distgen.errors import ConfigError


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


@pytest.mark.parametrize(
    ("key", "value", "good"), [("jitter", 16, "0 or 128"), ("stride", 300, "256 or 384"), ("target_length", 100, "128")]
)
def test_a_length_that_is_no_multiple_of_a_bin_names_the_nearest_good_ones(key, value, good):
    jitter = value if key == "jitter" else 0
    given = {"window": 1024, "target_length": 1024, "stride": 1024} | ({} if key == "jitter" else {key: value})
    message = rf'{key}: {value} is no multiple of track "atac" with bin_bp 128. Use {good}\.'
    with pytest.raises(ConfigError, match=message):
        check_lengths(Lengths(epochs=1, **given), jitter, [("atac", 128)])
