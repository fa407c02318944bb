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
