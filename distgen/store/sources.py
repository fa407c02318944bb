"""What a store is made of: the recipe's files, what they are known by, and where they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distgen
from distgen.config import Recipe, digest
from distgen.errors import redact, suggest
from distgen.ingest.open import blake3, sha256
from distgen.ingest.remote import Remote, describe, fetch


@dataclass(frozen=True)
class Sources:
    """The sources of a recipe.

    Args:
        provenance: what the manifest keeps; nothing in it depends on when or where the store is built, nor tells a secret.
        ids: an id of the content of each source, by how the recipe names it.
        sizes: bytes of each source, likewise.
        remotes: what is elsewhere, by its URI.
    """

    provenance: dict[str, Any]
    ids: dict[str, str]
    sizes: dict[str, int]
    remotes: dict[str, Remote]

    def fetched(self, recipe: Recipe, folder: Path) -> Recipe:
        """The recipe with all its sources here: those that are elsewhere come into `folder` when they are first needed."""
        return recipe.fetching(lambda uri: fetch(self.remotes[uri], folder / "sources"))


def examine(recipe: Recipe) -> Sources:
    """Look at every source: a file is hashed, of a remote one its version is asked for.

    Raises:
        ConfigError, SourceError: a source is not there, or not the one that `sha256` names.
    """
    sources: dict[str, Any] = {}
    ids: dict[str, str] = {}
    sizes: dict[str, int] = {}
    remotes: dict[str, Remote] = {}
    for source, key in recipe.files().items():
        expected = recipe.assembly.sha256 if recipe.assembly and source == recipe.assembly.fasta else None
        uri = recipe.uri(source, key)
        if uri is None:
            entry = _local(recipe, source, key, expected)
            ids[source] = entry["blake3"]
        else:
            remotes[uri] = describe(uri, expected)
            entry = remotes[uri].entry()
            ids[source] = digest(entry)
        sizes[source] = entry["bytes"]
        name, number = redact(source), 1
        while name in sources:  # URIs that differ in their queries alone
            number += 1
            name = f"{redact(source)} ({number})"
        sources[name] = entry
    provenance = {"distgen": distgen.__version__, "recipe": redact(recipe.text), "sources": sources}
    return Sources(provenance, ids, sizes, remotes)


def _local(recipe: Recipe, source: str, key: str, expected: str | None) -> dict[str, Any]:
    path = recipe.resolve(source, key)
    if path.is_dir():
        raise recipe.error(key, f"{path} is a folder; name a file in it")
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*")) if path.parent.is_dir() else []
        raise recipe.error(key, f"there is no file {path}. {suggest(path.name, near)}")
    if expected is not None and (found := sha256(path)) != expected:
        raise recipe.error("assembly.sha256", f"{source} has {found}; fetch it again or correct the recipe")
    return {"blake3": blake3(path), "bytes": path.stat().st_size}
