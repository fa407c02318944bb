import gzip
import json
from pathlib import Path

import pytest

from distgen.errors import ConfigError
from distgen.train.run import Run
from tests.conftest import fit


def ranges(path):
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [event["name"] for event in events if event.get("cat") == "user_annotation"]


def test_the_steps_that_are_asked_for_are_traced_with_their_parts(run_file, tmp_path):
    fit(Run.read(run_file, ["log.profile=[3, 5]", "train.steps=8"]), tmp_path / "out")
    (trace,) = (tmp_path / "out" / "profile").iterdir()
    assert trace.name == "steps-3-5.json.gz"
    found = ranges(trace)
    for part in ("wait", "encode", "forward", "backward", "communicate", "optimize"):
        assert found.count(part) == 3, part


def test_a_training_that_goes_on_in_the_middle_traces_the_rest(run_file, tmp_path):
    fit(Run.read(run_file, ["train.steps=4"]), tmp_path / "out")
    fit(Run.read(run_file, ["log.profile=[3, 6]", "train.steps=8"]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "profile").iterdir()] == ["steps-5-6.json.gz"]


def test_without_the_key_nothing_is_traced(run_file, tmp_path):
    fit(Run.read(run_file, ["train.steps=2"]), tmp_path / "out")
    assert not (tmp_path / "out" / "profile").exists()


@pytest.mark.parametrize(
    ("steps", "problem"),
    [("[3, 99]", "there is no step 99 to trace: the last is 12"), ("[5, 4]", r"profile is \[first, last\] step")],
)
def test_steps_that_are_not_there_are_refused(run_file: Path, steps, problem):
    with pytest.raises(ConfigError, match=problem):
        Run.read(run_file, [f"log.profile={steps}"]).check()
