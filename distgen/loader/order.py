"""The order: which window is sample k of epoch e, as a pure function of (windows, seed, e, k)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from distgen.genome import Int64

VERSIONS = {"flat": "flat/1", "sequential": "sequential/1"}
_ROUNDS = 12
UInt64 = npt.NDArray[np.uint64]


def permute(index: Int64, n: int, seed: int, epoch: int) -> Int64:
    """Where a keyed permutation of range(n) sends each index ("flat/1").

    A balanced Feistel network over the smallest even number of bits (at least six) that holds n + 2, walked along its
    cycles back into range(n) (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): O(1) in
    n, so nothing is stored and any sample of any epoch is found at once.

    Args:
        index: int64 (any,), each in range(n).
        n: size of the permutation, 1 to 2^62.
        seed, epoch: the key; hashed together, so that neighbours are unrelated.

    Returns:
        int64, same shape; over all indices a permutation of range(n).

    Raises:
        ValueError: n or an index is out of range.
    """
    if not 0 < n <= 2**62 or (index.size and not 0 <= index.min() <= index.max() < n):
        raise ValueError(f"indices must lie in range({n})")
    # Halves of two bits reach too few permutations, whatever the rounds: a chi-squared test over n = 2 to 6 sees it.
    half = max(3, ((n + 1).bit_length() + 1) // 2)
    key = hashlib.shake_256(f"distgen order flat/1 {seed} {epoch}".encode()).digest(8 * _ROUNDS)
    rounds = np.frombuffer(key, "<u8")
    # On average at most 4 walks: the network permutes fewer than 4 (n + 2) numbers. Small n take a few more.
    out = _network(index.astype(np.uint64), rounds, half)
    while (outside := out >= n).any():
        out[outside] = _network(out[outside], rounds, half)
    return out.astype(np.int64)


def _network(value: UInt64, rounds: UInt64, half: int) -> UInt64:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & mask
    for key in rounds:
        left, right = right, left ^ (_mix(right + key) >> (np.uint64(64) - bits))
    return (left << bits) | right


def _mix(x: UInt64) -> UInt64:
    """The finalizer of SplitMix64 (Steele et al. 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
