import subprocess
import sys

from distgen.train.watch import Watch

STANDS = """
import sys, time
from pathlib import Path
from distgen.config import TIMEOUTS
from distgen.train.watch import Watch

def backward_that_never_returns():
    time.sleep(600)

TIMEOUTS["step"] = 0.5
watch = Watch(Path(sys.argv[1]), 3)
with watch.watching():
    watch.moved()
    with watch.paused():
        time.sleep(1.0)
    watch.moved()
    backward_that_never_returns()
"""


def stand_still(out):
    return subprocess.run([sys.executable, "-c", STANDS, str(out)], timeout=120, capture_output=True, text=True)


def test_a_step_that_stands_still_says_where_and_ends(tmp_path):
    assert stand_still(tmp_path).returncode == 1
    assert "in backward_that_never_returns" in (tmp_path / "stacks-3.txt").read_text()


def test_without_a_run_directory_it_says_so_on_stderr(tmp_path):
    ended = stand_still(tmp_path / "elsewhere")
    assert ended.returncode == 1
    assert "in backward_that_never_returns" in ended.stderr


def test_a_training_that_moves_leaves_nothing(tmp_path):
    watch = Watch(tmp_path, 0)
    with watch.watching():
        watch.moved()
    assert not list(tmp_path.iterdir())
