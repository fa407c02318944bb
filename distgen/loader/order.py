"""The order: which window is sample k of epoch e, and what chance says of it, as pure functions of (windows, seed, e, k)."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np

from distgen.errors import ConfigError
from distgen.genome import Int64

VERSIONS = {"flat": "flat/1", "grouped": "grouped/1", "sequential": "sequential/1"}
_ROUNDS = 12


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
    from distgen.loader import network

    flat, out = _flat(index, n)
    network.permute(flat, n, _words("flat/1", seed, epoch, _ROUNDS), out)
    return out.reshape(np.shape(index))


def grouped(
    index: Int64, n: int, seed: int, epoch: int, *, batch_size: int, lanes: int, piece: int, group: int
) -> Int64:
    """The window of each sample where few pieces of the assembly may be open at a time ("grouped/1").

    Windows lie along the assembly in pieces of `piece`, the last one shorter. The pieces take turns in a keyed
    permutation; `group` of them in turn make a group, and inside each the windows are permuted anew. So the turn is
    a permutation of all windows that reads group after group. It is cut into as many equal stretches as there are
    lanes, and each lane serves its own rows of every batch: row j of batch_size belongs to lane j * lanes // batch_size.
    The n % batch_size samples past the last whole batch take what then is left of the turn. O(1) in n, as "flat/1".

    At any time a lane reads from the pieces of one group; t of its samples one after another come from at most
    group * ((t + piece) // (group * piece) + 2) pieces.

    Args:
        index: int64 (any,), samples, each in range(n).
        n: samples of the epoch, 1 to 2^62.
        seed, epoch: the key.
        batch_size: rows of a global batch.
        lanes: stretches of the turn that are read at the same time; divides `batch_size`.
        piece: windows of a piece, about those of a shard.
        group: pieces of a group.

    Returns:
        int64, same shape; over all samples a permutation of range(n).

    Raises:
        ConfigError: `lanes` does not divide `batch_size`.
        ValueError: another number is out of range.
    """
    from distgen.loader import network

    flat, out = _flat(index, n)
    plan, pieces, inner, tweak = _plan(n, seed, epoch, batch_size, lanes, piece, group)
    network.grouped(flat, plan, pieces, inner, tweak, out)
    return out.reshape(np.shape(index))


def draws(samples: Int64, seed: int, epoch: int, tag: int) -> Int64:
    """What chance says of each sample: four words of `distgen.kernels.philox`, for many samples quickly.

    Args:
        samples: int64 (n,), the counters.
        seed: the key; its lowest 64 bits count.
        epoch, tag: of which the lowest 32 bits count; tags are listed in `distgen.kernels.draws`.

    Returns:
        int64 (4, n), uniform integers in [0, 2^32).
    """
    from distgen.kernels.numba_cpu import philox

    out = np.empty((4, len(samples)), np.int64)
    word, words = 2**32 - 1, 2**64 - 1
    philox.fill(
        np.ascontiguousarray(samples), np.uint64(seed & words), np.uint64(tag & word), np.uint64(epoch & word), *out
    )
    return out


class _Plan(NamedTuple):
    """What follows from the arguments of `grouped`."""

    n: int
    batch: int  # samples of a global batch
    width: int  # of them a lane's
    whole: int  # samples of all whole batches
    lane: int  # of them a lane's
    piece: int  # windows of a piece,
    missing: int  # by which the assembly's last one is shorter
    group: int  # pieces of a group
    pieces: int  # pieces of the assembly
    slot: int  # the turn of its last one


def check_lanes(lanes: int, batch_size: int) -> None:
    """Every lane has as many samples of a batch. Raises ConfigError: they can't."""
    if batch_size % lanes:
        nearest = sorted((d for d in range(1, batch_size + 1) if not batch_size % d), key=lambda d: abs(d - lanes))[:2]
        use = " or ".join(map(str, sorted(nearest)))
        raise ConfigError(f"{lanes} does not divide a batch of {batch_size}. Use {use}.", key="lanes")


def _plan(n: int, seed: int, epoch: int, batch_size: int, lanes: int, piece: int, group: int) -> tuple[Any, ...]:
    """The plan of an epoch, the keys of its pieces, those inside its groups, and what sets the groups apart."""
    if min(n, batch_size, lanes, piece, group) < 1 or n > 2**62:
        raise ValueError("samples (to 2^62), batch_size, lanes, piece and group are at least 1")
    check_lanes(lanes, batch_size)
    words = _words("grouped/1", seed, epoch, 2 * _ROUNDS + 3)
    piece = min(piece, n)
    pieces = -(-n // piece)
    whole = n // batch_size * batch_size
    # The shorter piece is put among the permuted others: so no inverse of the network is needed to find it.
    slot = ((int(words[-1]) << 64 | int(words[-2])) * pieces) >> 128
    group = min(group, pieces)
    plan = _Plan(
        n, batch_size, batch_size // lanes, whole, whole // lanes, piece, pieces * piece - n, group, pieces, slot
    )
    return plan, words[:_ROUNDS], words[_ROUNDS : 2 * _ROUNDS], words[2 * _ROUNDS]


def _flat(index: Int64, n: int) -> tuple[Int64, Int64]:
    """The indices, one after another, and room for what becomes of them."""
    if not 0 < n <= 2**62 or (index.size and not 0 <= index.min() <= index.max() < n):
        raise ValueError(f"indices must lie in range({n})")
    return np.ascontiguousarray(index, np.int64).reshape(-1), np.empty(index.size, np.int64)


def _words(version: str, seed: int, epoch: int, count: int) -> tuple[np.uint64, ...]:
    key = hashlib.shake_256(f"distgen order {version} {seed} {epoch}".encode()).digest(8 * count)
    return tuple(np.frombuffer(key, "<u8"))
