"""Every Triton kernel, compiled for GPUs that need not be there: what it takes of a multiprocessor."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow  # compiles each kernel for three generations of GPUs: two minutes
# Of 65,536 on a multiprocessor: 80 leave room for 768 threads, which is enough to wait for memory together. Where
# 16 does not divide the length, stores are one item wide and each has an address; 128 leave room for 512 threads.
MOST_REGISTERS, MOST_WITH_NARROW_STORES = 80, 128


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.kernels.compiled", "80", "90", "100"]
    said = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_no_kernel_spills_registers(compiled):
    assert {kernel["capability"] for kernel in compiled} == {80, 90, 100}
    assert [kernel for kernel in compiled if kernel["STACK"] or kernel["LOCAL"]] == []


def test_registers_leave_room_for_threads_that_wait_for_memory(compiled):
    most = {False: MOST_REGISTERS, True: MOST_WITH_NARROW_STORES}
    waiting = [kernel for kernel in compiled if not kernel["case"].startswith("conv_stem")]  # whose sums fill them
    assert [kernel for kernel in waiting if kernel["REG"] > most["odd" in kernel["case"]]] == []


def test_windows_are_stored_16_bytes_at_a_time(compiled):
    for kernel in compiled:
        if kernel["case"].startswith(("tokens", "one_hot")) and "odd" not in kernel["case"]:
            assert set(kernel["stores"]) <= {"st.global.v4.b32", "st.global.v2.b64"}, kernel
