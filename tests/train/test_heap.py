"""Memory that is kept."""

import os
import subprocess
import sys

PROBE = """
import resource, sys
import torch
from distgen.train.heap import keep_heap
if sys.argv[1] == "kept":
    keep_heap()
for step in range(30):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones(1 << 20) for _ in range(16)]  # 4 MB each
    del activations
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kind: str) -> int:
    """Where blocks lie decides whether glibc gives them back by itself: here it always does."""
    gives_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    probe = [sys.executable, "-c", PROBE, kind]
    return int(subprocess.run(probe, check=True, capture_output=True, text=True, env=gives_back).stdout)


def test_steps_find_their_memory_where_the_step_before_left_it():
    pages = 20 * 16 * (4 << 20) // 4096
    assert faults("kept") < pages / 100
    assert faults("given back") > pages / 2
