import numpy as np

from distgen.ingest.compiled import compiled


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
