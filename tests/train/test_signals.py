"""A process that is asked to leave keeps a checkpoint first."""

import os
import signal
import subprocess
import sys

import pytest

from distgen.errors import PreemptedError
from distgen.train.launch import launch
from distgen.train.run import Run
from distgen.train.signals import asked_to_leave
from tests.conftest import fit, weights


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_remembered(number):
    before = signal.getsignal(number)
    with asked_to_leave() as leaving:
        assert not leaving()
        os.kill(os.getpid(), number)
        assert leaving()
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process():
    program = (
        "import os, signal\nfrom distgen.train.signals import asked_to_leave\n"
        "with asked_to_leave() as leaving:\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n    print(leaving(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("True\n", -signal.SIGTERM)


def test_a_training_that_is_asked_to_leave_goes_on_exactly(run_file, tmp_path):
    run = Run.read(run_file)
    fit(run, tmp_path / "undisturbed")

    def ask(record):
        if record["step"] == 5 and "loss" in record:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match="asked to leave at step [67] of 12; go on with --resume"):
        launch(run, tmp_path / "out", ask)
    launch(run, tmp_path / "out", lambda record: None)
    one, two = weights(tmp_path / "undisturbed"), weights(tmp_path / "out")
    assert all(one[name].equal(two[name]) for name in one)
