"""What waits between a driver and its first worker."""

import subprocess
import sys

from distgen.train.desk import Desk


def test_a_first_worker_that_was_given_up_is_not_heard():
    desk = Desk()
    desk.tell("begin", 0, "one")
    desk.tell("record", {"step": 1}, "one")
    desk.tell("begin", 0, "two")
    desk.tell("record", {"step": 2}, "one")
    desk.tell("record", {"step": 1}, "two")
    desk.tell("warning", "a worker died")
    told = [("begin", 0), ("record", {"step": 1}), ("begin", 0), ("record", {"step": 1}), ("warning", "a worker died")]
    assert desk.take(leaving=False) == told
    assert desk.take(leaving=False) == []


def test_workers_leave_for_the_driver_and_for_others():
    desk = Desk()
    assert not desk.leaving()
    desk.resize(True)
    assert desk.leaving()
    desk.resize(False)
    desk.take(leaving=True)
    assert desk.leaving()


def test_an_actor_of_it_imports_nothing_heavy():
    program = "import sys, distgen.train.desk; sys.exit(bool({'torch', 'ray', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
