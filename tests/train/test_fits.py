"""Models that could not answer what a run asks are refused before anything is written."""

import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.train.run import Run
from tests.conftest import RUN

DILATED = 'family = "dilated"\nchannels = 8\nstem_width = 3\ndilations = [1, 2]\n'
CNN = 'family = "cnn"\nchannels = [8, 8]\nwidths = [5, 3]\npools = [4, 2]\n'
ONE = 'family = "dilated"\nchannels = 8\nstem_width = 1\nwidth = 1\ndilations = [1]\n'
CAUSAL = DILATED + "causal = true\n"
GENES = '"base_classes"\ntrack = "genes"'


@pytest.fixture
def check(small_coding, tmp_path):
    """Checks a run of a model and a question; says with what error, if any."""

    def of(model, objective, *changes, store=small_coding):
        file = tmp_path / "run.toml"
        file.write_text(RUN.format(store=store.path).replace(DILATED, model).replace('"masked_lm"', objective))
        try:
            Run.read(file, ["data.jitter=0", *changes]).check()
        except ConfigError as error:
            said = str(error)
        else:
            return None
        assert said.startswith(f"run {file}")
        return said.rstrip(".")

    return of


def test_a_causal_language_model_must_not_see_what_it_is_to_guess(check):
    error = check(DILATED, '"causal_lm"')
    assert 'model.causal: "dilated" looks at both sides of a base and would see what it is to guess. Use true' in error
    error = check(CNN, '"causal_lm"')
    assert 'model.family: "cnn" looks at both sides' in error
    able = error.rpartition("Use ")[2]
    assert '"dilated"' in able
    assert '"transformer"' in able
    assert '"cnn"' not in able
    assert check(CAUSAL, '"causal_lm"') is None
    for other in ('"masked_lm"', GENES):
        assert check(CAUSAL, other) is None


@pytest.mark.parametrize(
    ("objective", "least", "why"),
    [
        ('"masked_lm"', 2, "each base would be answered for by itself alone"),
        ('"causal_lm"', 2, "each base would be guessed from one"),
        (GENES, 2, "each base would be answered for by itself alone"),
    ],
)
def test_a_model_sees_more_than_what_tells_it_nothing(check, objective, least, why):
    error = check(ONE + "causal = true\n", objective)
    assert 'model: this "dilated" sees 1 base at a time' in error
    assert why in error
    assert f"to see {least} or more" in error
    assert check(CAUSAL, objective) is None


def test_stretches_that_are_hidden_are_shorter_than_what_a_model_sees(check):
    seen = 3 + 2 * 3
    assert check(DILATED, f'"masked_lm"\nspan = {seen - 1}') is None
    assert f"to see {seen + 1} or more" in check(DILATED, f'"masked_lm"\nspan = {seen}')


def test_what_shares_an_answer_lies_in_one_bin(check):
    error = check(CNN, GENES)
    assert 'model: this "cnn" has one answer for 8 bases, and "genes" has bins of 1. Use sizes that make it 1' in error
    assert '"masked_lm" asks of each' in check(CNN, '"masked_lm"')
    assert check(CNN.replace("[4, 2]", "[1, 1]"), GENES) is None


def test_targets_begin_where_answers_do(check, small_recipe):
    small_recipe.write_text(small_recipe.read_text().replace('classes = ["cds+"', 'bin_bp = 8\nclasses = ["cds+"'))
    build(read(small_recipe, Recipe), small_recipe.parent / "binned.zarr")
    binned = open_store(small_recipe.parent / "binned.zarr")
    assert check(CNN, GENES, store=binned) is None
    assert check(CNN, GENES, "data.target_length=48", store=binned) is None
    error = check(CNN, GENES, "data.target_length=56", store=binned)
    assert "data.target_length: 56 in a window of 64 begins between the 8 bases" in error
    assert error.endswith("Use 48 or 64")
    error = check(CNN.replace("[4, 2]", "[4, 4]"), GENES, store=binned)
    assert "one answer for 16 bases" in error
    assert "make it 8, a track whose bin_bp is a multiple of 16" in error
    error = check(CNN, GENES, "data.curriculum=[{epochs = 1, window = 32, target_length = 24}]", store=binned)
    assert "data.curriculum[0].target_length: 24 in a window of 32 begins between" in error
