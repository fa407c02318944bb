"""The orders as they are specified: clear, slow, and with every window of the epoch in a list where that is clearer."""

import hashlib

import numpy as np


def words(version, seed, epoch, count):
    """The key: unsigned 64-bit words."""
    key = hashlib.shake_256(f"distgen order {version} {seed} {epoch}".encode()).digest(8 * count)
    return np.frombuffer(key, "<u8")


def flat(index, n, seed, epoch, rounds=12):
    """What `order.permute` gives, of a network of any number of rounds."""
    return walked(index, n, words("flat/1", seed, epoch, rounds))


def walked(index, n, keys):
    """The network over the smallest even number of bits (at least six) that holds n + 2, walked on while outside of range(n)."""
    half = max(3, ((n + 1).bit_length() + 1) // 2)
    out = network(np.asarray(index).astype(np.uint64), keys, half)
    while (outside := out >= n).any():
        out[outside] = network(out[outside], keys, half)
    return out.astype(np.int64)


def network(value, keys, half):
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) >> (np.uint64(64) - bits))
    return (left << bits) | right


def mix(x):
    """The finalizer of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def grouped(n, seed, epoch, *, batch_size, lanes, piece, group, rounds=12):
    """What `order.grouped` gives for all samples: pieces in turn, groups shuffled, lanes dealt into batches."""
    key = words("grouped/1", seed, epoch, 27)
    pieces = [list(range(first, min(first + piece, n))) for first in range(0, n, piece)]
    turn = [pieces[i] for i in walked(np.arange(len(pieces) - 1), len(pieces) - 1, key[:rounds])]
    turn.insert((int(key[26]) << 64 | int(key[25])) * len(pieces) >> 128, pieces[-1])

    windows = []
    for number, first in enumerate(range(0, len(turn), group)):
        entries = [window for each in turn[first : first + group] for window in each]
        tweak = mix(key[24:25] + np.array([number], np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        inner = key[12 : 12 + rounds] + tweak
        windows += [entries[i] for i in walked(np.arange(len(entries)), len(entries), inner)]

    batches = n // batch_size
    per_lane = batches * batch_size // lanes
    stretches = [iter(windows[lane * per_lane : (lane + 1) * per_lane]) for lane in range(lanes)]
    dealt = [next(stretches[row * lanes // batch_size]) for _ in range(batches) for row in range(batch_size)]
    return dealt + windows[batches * batch_size :]
