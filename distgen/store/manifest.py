"""The manifest of a store or a collection, which makes it one: read whole, and only if it is what was published."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from distgen.config import digest
from distgen.errors import ConfigError, StoreError, suggest
from distgen.ingest.objects import Object, Place
from distgen.store import format


def read_manifest(path: Place, kind: str, pattern: str) -> dict[str, Any]:
    """The manifest of a store or a collection, with its checksum tried.

    Args:
        path: the folder.
        kind: "store" or "collection", for messages.
        pattern: what the others beside it are called.

    Raises:
        ConfigError: there is none. StoreError: it is damaged, or its format is another. RemoteError: it can't be read.
    """
    build = f"distgen build {'RECIPE' if kind == 'store' else 'COLLECTION.toml'}"
    if not (path / format.MANIFEST).is_file():
        if isinstance(path, Path) and is_ours(path):  # elsewhere it is sent last: a build may be about to finish
            raise ConfigError(f"{kind} {path} has lost its manifest. Run: {build} --force, which builds all of it anew")
        what = f"has no manifest: it is no whole {kind}" if _exists(path) else "does not exist"
        others = [other for other in _beside(path, pattern) if other != str(path)]
        raise ConfigError(f"{kind} {path} {what}. Run: {build}." + f" {suggest(str(path), others)}" * bool(others))
    manifest: dict[str, Any] = format.read_json(path / format.MANIFEST)
    if not isinstance(manifest, dict):
        raise StoreError(f"{kind} {path}: the manifest is damaged. Run: {build} --force")
    if manifest.get("format") != format.FORMAT:
        found = manifest.get("format")
        raise StoreError(f"{kind} {path} has format {found}, this version reads {format.FORMAT}: build it again")
    if digest({key: value for key, value in manifest.items() if key != "checksum"}) != manifest.get("checksum"):
        raise StoreError(f"{kind} {path}: the manifest is damaged. Run: {build} --force")
    return manifest


def is_ours(path: Place) -> bool:
    """Whether a folder is a store or a collection by its group's metadata, whatever else there is of it."""
    try:
        group = format.read_json(path / "zarr.json")
    except StoreError:
        return False
    return isinstance(group, dict) and "distgen" in (group.get("attributes") or {})


def _exists(path: Place) -> bool:
    return bool(path.names()) if isinstance(path, Object) else path.exists()


def _beside(path: Place, pattern: str) -> list[str]:
    if isinstance(path, Object):
        here = str(path).removesuffix(path.name)
        return sorted(here + name for name in path.beside() if fnmatch(name, pattern))
    return sorted(str(p) for p in path.parent.glob(pattern)) if path.parent.is_dir() else []
