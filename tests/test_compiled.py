import subprocess
import sys

import numpy as np

from distgen.compiled import compiled


def total(values):
    result = 0
    for value in values:
        result += value
    return result


def test_a_function_is_compiled_once_and_gives_what_python_gives():
    values = np.arange(10)
    assert compiled(total)(values) == total(values)
    assert compiled(total) is compiled(total)
    assert compiled(total).nopython_signatures


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_each_time(monkeypatch):
    import numba.core.caching

    def nowhere(*args):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba.core.caching.FunctionCache, "__init__", nowhere)
    values = np.arange(10)
    assert compiled(lambda values: values.sum())(values) == 45


def test_the_ops_on_the_cpu_need_no_place_on_disk_either():
    program = """
import numba.core.caching, torch
def nowhere(*args):
    raise RuntimeError("cannot cache function: no locator available")
numba.core.caching.FunctionCache.__init__ = nowhere
from distgen import kernels
plane, starts = torch.tensor([0b11100100], dtype=torch.uint8), torch.tensor([0])
print(kernels.tokens(plane, starts, 4).tolist(), kernels.conv_stem(plane, starts, 4, torch.ones(1, 4, 1)).tolist())
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[[0, 1, 2, 3]] [[[1.0, 1.0, 1.0, 1.0]]]\n"
