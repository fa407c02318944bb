"""Is a store whole? And what is in it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgen.errors import StoreError
from distgen.store import format
from distgen.store.reader import Store


def verify(store: Store, progress: Callable[[int], None] = lambda size: None) -> dict[str, int]:
    """Check every stored chunk, every array's content id and the metadata against the manifest.

    Args:
        store: an open store.
        progress: called with the bytes checked since the last call.

    Returns:
        How many arrays, chunks and bytes were checked.

    Raises:
        StoreError: the first damage, with its shard and rows.
    """
    if format.read_json(store.path / "zarr.json") != store.manifest["group"]:
        raise StoreError(f"{store.path}/zarr.json is not what was published; build the store again with --force")
    counts = {"arrays": 0, "chunks": 0, "bytes": 0}
    for key in store.manifest["arrays"]:
        counts["arrays"] += 1
        for size in store.array(key).verify():
            counts["chunks"] += 1
            counts["bytes"] += size
            progress(size)
    return counts


def describe(store: Store) -> dict[str, Any]:
    """What `distgen info` shows: sizes in bases, bytes and bins."""
    contigs, path = store.contigs, store.path
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    bits = {name: int(np.bitwise_count(store.planes[name].read()).sum()) for name in ("ambiguous", "softmask")}
    return {
        "store": str(path),
        "assembly": store.name,
        "bases": int(contigs.lengths.sum()),
        "ambiguous": bits["ambiguous"],
        "softmasked": bits["softmask"],
        "bytes": stored,
        "contigs": {n: int(length) for n, length in zip(contigs.names, contigs.lengths, strict=True)},
        "tracks": {
            name: {"classes": list(track.classes), "bin_bp": track.bin_bp, "bins": track.values.shape[0]}
            for name, track in store.tracks.items()
        },
        "splits": {
            name: {part: int(sum(e - s for s, e in v)) for part, v in split.items() if part != "id"}
            for name, split in store.manifest["splits"].items()
        },
        "sources": store.manifest["provenance"]["sources"],
    }
