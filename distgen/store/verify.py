"""Is a store whole? And what is in it?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distgen.errors import StoreError
from distgen.genome import bases_in
from distgen.ingest.objects import Object, Place
from distgen.store import format
from distgen.store.array import Array
from distgen.store.format import MANIFEST
from distgen.store.reader import Store, open_store
from distgen.store.splits import PARTS
from distgen.store.work import Work

KINDS = ("tracks", "matrices", "variants", "splits")  # groups of arrays that a recipe may gain and lose


@dataclass
class Findings:
    """What was checked, and what is damaged: array key and shard number, or None where its metadata is; and a sentence."""

    arrays: int = 0
    chunks: int = 0
    bytes: int = 0
    damage: list[tuple[str, int | None, str]] = field(default_factory=list)


def verify(store: Store, progress: Callable[[int], None] = lambda size: None) -> Findings:
    """Check every stored chunk, every array's content id and all metadata against the manifest.

    Args:
        store: an open store.
        progress: called with the bytes checked since the last call.
    """
    found = Findings()
    _check_json(store.path / MANIFEST, store.manifest, MANIFEST, found)
    _check_json(store.path / "zarr.json", store.manifest["group"], "", found)
    for key in store.manifest["arrays"]:
        found.arrays += 1
        array, before = store.array(key).uncached(), len(found.damage)
        _check_json(store.path / key / "zarr.json", array.layout.to_json(), key, found)
        for shard in range(array.layout.shards):
            _check_shard(key, array, shard, found, progress)
        if len(found.damage) == before and not array.has_content_id():
            found.damage.append((key, None, f"{store.path / key} is not the array that was published; {format.ADVICE}"))
    for key, attributes in store.groups().items():
        _check_json(store.path / key / "zarr.json", format.group_json(attributes), key, found)
    return found


def _check_shard(key: str, array: Array, shard: int, found: Findings, progress: Callable[[int], None]) -> None:
    try:
        for size in array.verify_shard(shard):
            found.chunks += 1
            found.bytes += size
            progress(size)
    except StoreError as error:
        found.damage.append((key, shard, str(error)))


def _check_json(path: Place, expected: Any, key: str, found: Findings) -> None:
    """Metadata must be the very bytes that were published."""
    try:
        if path.read_bytes() != format.json_bytes(expected):
            found.damage.append((key, None, f"{path} is not what was published; {format.ADVICE}"))
    except OSError as error:
        found.damage.append((key, None, f"{path} cannot be read ({error.strerror}); {format.ADVICE}"))


def sizes(store: Store) -> dict[str, int]:
    """The bytes of every file or object below a store, by its name there."""
    if isinstance(store.path, Object):
        return {name: meta["size"] for name, meta in store.path.names().items()}
    files = (file for file in store.path.rglob("*") if file.is_file())
    return {str(file.relative_to(store.path)): file.stat().st_size for file in files}


def leftovers(store: Store, names: Iterable[str]) -> list[str]:
    """Groups of arrays that an earlier generation of the store used, and this one doesn't.

    Args:
        store: an open store.
        names: of all files or objects below it.
    """
    folders = {"/".join(name.split("/")[:2]) for name in names if name.split("/")[0] in KINDS and name.count("/") > 1}
    return sorted(folders - store.groups().keys())


def prune(place: Place) -> list[str]:
    """Remove what `leftovers` finds, and say what that was; nothing may read it any longer.

    Raises:
        ConfigError: there is no store, or a build of it is running: what it has put there, no manifest names yet.
    """
    work = Work(place)
    with work.locked():
        store = open_store(work.out)
        names = sizes(store)
        found = leftovers(store, names)
        if isinstance(store.path, Object):
            store.path.delete([name for name in names if "/".join(name.split("/")[:2]) in found])
        else:
            for key in found:
                shutil.rmtree(store.path / key)
        work.remove()
    return found


def describe(store: Store) -> dict[str, Any]:
    """What `distgen info` shows: sizes in bases, bytes and bins."""
    contigs, files = store.contigs, sizes(store)
    return {
        "store": str(store.path),
        "assembly": store.name,
        "bases": int(contigs.lengths.sum()),
        "ambiguous": _count_bits(store.planes["ambiguous"]),
        "softmasked": _count_bits(store.planes["softmask"]),
        "bytes": sum(files.values()),
        "unused": leftovers(store, files),
        "contigs": {n: int(length) for n, length in zip(contigs.names, contigs.lengths, strict=True)},
        "left_out": store.left_out,
        "letters": store.letters,
        "tracks": {
            name: {"columns": list(track.columns), "bin_bp": track.bin_bp, "bins": track.bins}
            | _counted(store, "tracks", name)
            for name, track in store.tracks.items()
        },
        "splits": {
            name: {part: bases_in(store.regions(part, name)) if split[part] else 0 for part in PARTS}
            for name, split in store.manifest["splits"].items()
        },
        "matrices": {
            name: {"regions": len(matrix), "conditions": list(matrix.conditions), **_counted(store, "matrices", name)}
            for name, matrix in store.matrices.items()
        },
        "variants": {
            name: {
                "rows": len(variants),
                "indels": len(variants.indels or ()),
                "samples": list(variants.samples),
                **_counted(store, "variants", name),
            }
            for name, variants in store.variant_sets.items()
        },
        "labels": _describe_labels(store) if store.manifest.get("labels") else None,
        "homology": {name: entry["report"] for name, entry in store.manifest["homology"].items()},
        "sources": store.manifest["provenance"]["sources"],
    }


def _counted(store: Store, kind: str, name: str) -> dict[str, Any]:
    """What a build counted of a track or a table of rows."""
    entry = store.manifest[kind][name]
    return {key: entry[key] for key in ("counts", "skipped", "dropped") if key in entry}


def _describe_labels(store: Store) -> dict[str, Any]:
    """Kind and classes of the labels, and how many sequences of each part of each split have which class."""
    labels, whole = store.labels, store.contigs.offsets
    said = {key: store.manifest["labels"][key] for key in ("kind", "names", "missing", "repeated")}
    found: dict[str, Any] = said | {"splits": {}}
    for name, split in store.manifest["splits"].items():
        parts: dict[str, Any] = {}
        found["splits"][name] = parts
        for part in PARTS:
            rows = np.searchsorted(whole, store.regions(part, name)[:, 0]) if split[part] else np.empty(0, np.int64)
            parts[part] = {"sequences": len(rows)}
            if labels.kind in ("binary", "classes"):
                values = labels.values[rows].reshape(-1)
                counts = [int(np.count_nonzero(values == number)) for number in range(len(labels.names))]
                parts[part]["classes"] = dict(zip(labels.names, counts, strict=True))
    return found


def _count_bits(plane: Array) -> int:
    step = 1 << 24
    return sum(int(np.bitwise_count(plane[first : first + step]).sum()) for first in range(0, plane.shape[0], step))
