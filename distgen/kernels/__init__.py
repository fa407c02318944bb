"""Packed DNA to model input.

An op takes a plane and where to start, so that one kernel serves a gathered host batch and a genome that lives on the
device. `ops.py` says what each op takes and gives, `reference.py` specifies it; the CPU runs `numba_cpu`, CUDA
`triton_gpu`. The ops are registered with torch.library (`library.py`): torch.compile sees them, autograd works.
"""

from distgen.kernels.draws import SAMPLE, philox, threshold
from distgen.kernels.library import check
from distgen.kernels.ops import (
    Replacements,
    Windows,
    bits,
    conv_stem,
    gather_bins,
    kmers,
    mask_tokens,
    one_hot,
    single_mutants,
    substitute,
    substituted_positions,
    tokens,
)
from distgen.kernels.reference import IGNORE_INDEX

MASK_ID = 5  # of single bases: 0 to 3 known, 4 unknown

__all__ = [
    "IGNORE_INDEX", "MASK_ID", "SAMPLE", "Replacements", "Windows", "bits", "check", "conv_stem", "gather_bins", "kmers",
    "mask_tokens", "one_hot", "philox", "single_mutants", "substitute", "substituted_positions", "threshold", "tokens",
]  # fmt: skip
