"""What windows are cut out of: a store, or what `distgen export` has made of one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from distgen.errors import ConfigError
from distgen.ingest.objects import Place, locate
from distgen.store.cache import ShardCache, default_cache
from distgen.store.exported import INDEX, Export, read_export
from distgen.store.format import MANIFEST
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store, open_store

# Both have a path, a cache, contigs, regions of parts, tracks, and content ids.
Source: TypeAlias = Store | Export


def open_source(place: str | Place, cache: ShardCache | None = None) -> Source:
    """Open the store or the export at a path, or at `s3://bucket/key`, `gs://bucket/key` or `az://container/key`.

    Args:
        place: where it lies.
        cache: keeps whole shards of one that lies elsewhere on the local disk; None: 64 GB in the user's cache folder.

    Raises:
        ConfigError: there is neither. StoreError, SourceError: its manifest or its index is damaged, or shards of the
            export are missing. RemoteError: what holds it cannot be reached, or refuses.
    """
    place = locate(place)
    if isinstance(place, Path):
        cache = None
    elif cache is None:
        cache = default_cache()
    if not (place / MANIFEST).is_file() and (place / INDEX).is_file():
        return read_export(place, cache)
    return open_store(place, cache)


def genome(source: Source, what: str, key: str) -> Store:
    """The store itself, for what the windows of an export do not suffice for.

    Raises:
        ConfigError: it is an export; says that `what` needs more.
    """
    if isinstance(source, Store):
        return source
    raise ConfigError(
        f"{source.path} is an export, with windows of its own and nothing else; {what} needs the store itself", key=key
    )


def parts(source: Source, split: str) -> list[str]:
    """The parts of a split that hold anything. Raises ConfigError if a store has no such split."""
    return list(source.parts) if isinstance(source, Export) else source.parts(split)


def homology(source: Source, split: str) -> dict[str, Any] | None:
    """The report of the build on a split whose parts were to share nothing that resembles another; None where they were
    not, or nothing is known (of an export)."""
    return source.manifest["homology"].get(split, {}).get("report") if isinstance(source, Store) else None


def shards_along(source: Source, part: str | None) -> Fraction:
    """Over how many shards windows all along a part are spread; of a store, those all along the assembly."""
    if isinstance(source, Store):
        return Fraction(source.length, source.planes["sequence"].layout.shard * PER_BYTE["sequence"])
    assert part is not None, "an export has no windows beside those of its parts"
    return Fraction(source.parts[part], source.per_shard[part])
