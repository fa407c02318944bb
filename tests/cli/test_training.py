import io

import pytest
from rich.console import Console
from rich.progress import Progress

from distgen.cli import training
from distgen.cli.training import _Display, _left


@pytest.fixture
def now(monkeypatch):
    """Seconds that pass only when a test says so."""
    clock = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    return clock


def record(step, **more):
    return {"step": step, "steps": 1000, "loss": 1.5, "bases_per_second": 2e6, "wait_share": 0.25} | more


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_at_the_end(now, capsys):
    display = _Display(Progress(disable=True), "a")
    now[0] = 100.0
    for step in range(10, 1001, 10):
        display(record(step))
        now[0] += 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0] == "step 10/1,000  loss 1.5000  2,000 kbases/s  waiting 25.0%"
    assert lines[1] == "step 110/1,000  loss 1.5000  2,000 kbases/s  waiting 25.0%  89 s left"
    assert lines[-1].startswith("step 1,000/1,000")
    assert "left" not in lines[-1]


def test_what_was_told_last_of_validation_stays(now, capsys):
    display = _Display(Progress(disable=True), "a")
    now[0] = 100.0
    display({"step": 10, "steps": 1000, "valid": {"loss": 1.25}})
    now[0] = 200.0
    display(record(20, mfu=0.4))
    assert "loss 1.5000  valid loss 1.2500  2,000 kbases/s  waiting 25.0%  MFU 40.0%" in capsys.readouterr().out


def test_in_a_terminal_a_resumed_run_does_not_count_what_it_had(now):
    console = Console(file=io.StringIO(), force_terminal=True)
    progress = Progress(console=console, get_time=lambda: now[0])
    display = _Display(progress, "a")
    assert progress.tasks[0].description == "a: starting"
    now[0] = 5.0
    display(record(900))
    for step in range(901, 911):
        now[0] += 2
        display(record(step))
    (task,) = progress.tasks
    assert (task.completed, task.total) == (910, 1000)
    assert task.speed == pytest.approx(0.5)
    assert task.time_remaining == 180


@pytest.mark.parametrize(("seconds", "said"), [(0, ""), (3.2, "3 s"), (600, "10 min"), (36_000, "10.0 h")])
def test_time_left_is_said_in_fitting_units(seconds, said):
    assert _left(seconds).strip() == (f"{said} left" if said else "")
