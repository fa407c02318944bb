"""What a sweep file may say, and which configurations it means."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Range, Sweep, read
from distgen.errors import ConfigError


def asked(folder, text):
    (folder / "s.toml").write_text('run = "x.toml"\n' + text)
    return read(folder / "s.toml", Sweep)


values = st.lists(st.integers(-5, 5) | st.text("ab", max_size=3), min_size=1, max_size=4, unique_by=repr)


@given(st.dictionaries(st.sampled_from(["train.steps", "optimizer.lr", "model.channels"]), values))
def test_a_grid_is_every_combination_once(space):
    nested: dict = {}
    for key, found in space.items():
        section, name = key.split(".")
        nested.setdefault(section, {})[name] = found
    points = list(Sweep(run="x.toml", space=nested).points())
    expected = [dict(zip(space, row, strict=True)) for row in itertools.product(*space.values())]
    assert sorted(map(repr, map(sorted, map(dict.items, points)))) == sorted(
        repr(sorted(one.items())) for one in expected
    )
    assert points == list(Sweep(run="x.toml", space={**space}).points()) or len(space) > 1  # dotted or nested


@given(st.integers(0, 2**40), st.integers(1, 30), st.integers(1, 30))
def test_more_samples_only_add_some(seed, few, more):
    space = {"optimizer": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "kind": ["adamw", "muon"]}}
    one, other = (
        list(Sweep(run="x.toml", search="random", space=space, samples=count, seed=seed).points())
        for count in (few, few + more)
    )
    assert other[:few] == one
    assert len(other) == few + more
    assert all(1e-4 <= point["optimizer.lr"] <= 1e-1 for point in other)


@given(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_range_of_whole_numbers_gives_whole_numbers_inside(low, more, log, share):
    value = Range(low=low, high=low + more, log=log).at(share)
    assert isinstance(value, int)
    assert low <= value <= low + more


def test_each_whole_number_of_a_range_comes_equally_often():
    found = [Range(low=1, high=4).at(share / 400) for share in range(400)]
    assert [found.count(value) for value in (1, 2, 3, 4)] == [100, 100, 100, 100]


def test_half_of_a_range_by_its_logarithm_lies_below_its_geometric_mean():
    assert Range(low=1e-4, high=1e-2, log=True).at(0.5) == pytest.approx(1e-3)


def test_seeds_and_folds_multiply():
    sweep = Sweep(run="x.toml", seeds=(3, 4), folds=3)
    found = [tuple(repeat.values()) for repeat in sweep.repeats(0, "cv")]
    assert found == list(itertools.product(("cv-0", "cv-1", "cv-2"), (3, 4)))
    assert Sweep(run="x.toml").repeats(7, "default") == [{"data.split": "default", "data.seed": 7}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[space]\noptimizer.lr = 1e-3", r"s.toml:3: space.optimizer.lr: give a list of values, or a range"),
        ("[space]\noptimizer.lr = [1e-3, 1e-3]", r"s.toml:3: space.optimizer.lr: give values, each once"),
        ("[space]\noptimizer.lr = { low = 1, high = 2 }", r"s.toml:3: space.optimizer.lr: a grid needs a list"),
        ('search = "random"\nsamples = 2\n[space]\noptimizer.lr = { low = 2, high = 1 }', "s.toml:5: .*2 is not below high 1"),
        ('search = "random"\nsamples = 2\n[space]\noptimizer.lr = { low = 0, high = 1, log = true }', "no logarithm"),
        ('search = "random"\n[space]\noptimizer.lr = [1]', r's.toml:2: search: search = "random" needs samples'),
        ("samples = 3", "s.toml:2: samples: a grid trains every combination"),
        ("seeds = [1]\n[space]\ndata.seed = [1]", "s.toml:4: space.data.seed: seeds gives data.seed"),
        ('[space]\ndata.store = ["a"]', "s.toml:3: space.data.store: trials of a sweep do not differ in this"),
        ('metric = "f1"', 's.toml:2: metric: say whether "f1" is to be high or low'),
        ("folds = 3\n[asha]\ngrace_steps = 2", "s.toml:3: asha: folds are not equally hard"),
        ("sampels = 3", 'there is no key "sampels" here. Did you mean "samples"'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, problem):
    with pytest.raises(ConfigError, match=problem):
        asked(tmp_path, text)


@pytest.mark.parametrize("key", ["cluster.cpus_per_worker", "cluster.valid_aside", "train.checkpoints"])
def test_what_is_the_same_for_all_trials_is_no_part_of_the_space(tmp_path, key):
    with pytest.raises(ConfigError, match=f"space.{key}: trials of a sweep do not differ in this"):
        asked(tmp_path, f"[space]\n{key} = [1, 2]\n")
