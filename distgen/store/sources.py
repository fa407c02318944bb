"""What a store is made of: the recipe's files, what they are known by, and where they are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import distgen
from distgen.config import Recipe, digest
from distgen.errors import beside, redact
from distgen.ingest.fasta import Index, join
from distgen.ingest.open import blake3, sha256
from distgen.ingest.remote import Remote, describe, fetch
from distgen.store import assembly
from distgen.store.work import Execute, Progress, in_this_process, silent

_SMALL = 1 << 26  # bytes of sources that are hashed sooner than handed to workers


@dataclass(frozen=True)
class Sources:
    """The sources of a recipe.

    Args:
        provenance: what the manifest keeps; nothing in it depends on when or where the store is built, nor tells a secret.
        ids: an id of the content of each source, by how the recipe names it.
        sizes: bytes of each source, likewise.
        remotes: what is elsewhere, by its URI.
        index: of an assembly that several workers are to read.
    """

    provenance: dict[str, Any]
    ids: dict[str, str]
    sizes: dict[str, int]
    remotes: dict[str, Remote]
    index: Index | None = None

    def fetched(self, recipe: Recipe, folder: Path) -> Recipe:
        """The recipe with all its sources here: those that are elsewhere come into `folder` when they are first needed."""
        return recipe.fetching(lambda uri: fetch(self.remotes[uri], folder / "sources"))


def examine(recipe: Recipe, execute: Execute = in_this_process, parallel: int = 1) -> Sources:
    """Look at every source: a file is hashed, of a remote one its version is asked for.

    Args:
        recipe: whose sources.
        execute: carries out the hashing of files, and beside it the indexing of an assembly's.
        parallel: into how many tasks that may be cut.

    Raises:
        ConfigError, SourceError: a source is not there, or not the one that `sha256` names.
    """
    sources: dict[str, Any] = {}
    ids: dict[str, str] = {}
    sizes: dict[str, int] = {}
    remotes: dict[str, Remote] = {}
    files = recipe.files().items()
    paths = {source: _file(recipe, source, key) for source, key in files if recipe.uri(source, key) is None}
    entries, index = _entries(recipe, paths, execute, parallel)
    for source, key in files:
        uri = recipe.uri(source, key)
        if uri is None:
            entry = entries[source]
            ids[source] = entry["blake3"]
        else:
            remotes[uri] = describe(uri, _expected(recipe, source))
            entry = remotes[uri].entry()
            ids[source] = digest(entry)
        sizes[source] = entry["bytes"]
        name, number = redact(source), 1
        while name in sources:  # URIs that differ in their queries alone
            number += 1
            name = f"{redact(source)} ({number})"
        sources[name] = entry
    provenance = {"distgen": distgen.__version__, "recipe": redact(recipe.text), "sources": sources}
    return Sources(provenance, ids, sizes, remotes, index)


def _expected(recipe: Recipe, source: str) -> str | None:
    return recipe.assembly.sha256 if recipe.assembly and source == recipe.assembly.fasta else None


def _file(recipe: Recipe, source: str, key: str) -> Path:
    path = recipe.resolve(source, key)
    if path.is_dir():
        raise recipe.error(key, f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise recipe.error(key, f"there is no file {path}. {beside(path)}")
    return path


def _entries(
    recipe: Recipe, paths: dict[str, Path], execute: Execute, parallel: int
) -> tuple[dict[str, dict[str, Any]], Index | None]:
    """What the manifest says of each file, and the index of the assembly if several are to read it."""
    if sum(path.stat().st_size for path in paths.values()) < _SMALL:
        execute = in_this_process
    fasta = paths.get(recipe.assembly.fasta) if recipe.assembly else None
    scans = assembly.scans(fasta, parallel) if fasta else []
    hashes = [partial(_hashes, path, _expected(recipe, source) is not None) for source, path in paths.items()]
    results = execute([*hashes, *scans], silent)
    entries = {}
    for (source, path), (content, published) in zip(paths.items(), results, strict=False):
        if published != _expected(recipe, source):
            raise recipe.error("assembly.sha256", f"{source} has {published}; fetch it again or correct the recipe")
        entries[source] = {"blake3": content, "bytes": path.stat().st_size}
    return entries, join(results[len(hashes) :]) if scans else None


def _hashes(path: Path, published: bool, progress: Progress) -> tuple[str, str | None]:
    """The BLAKE3 of a file, and its SHA-256 if that is `published`."""
    return blake3(path), sha256(path) if published else None
