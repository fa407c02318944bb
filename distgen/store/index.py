"""Build the index of a collection: what there is to say of each store, and how often it is drawn from."""

from __future__ import annotations

import glob
import math
import os
import shutil
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import distgen
from distgen.config import Collection as CollectionFile
from distgen.config import Mixture, digest
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.store import format
from distgen.store.collection import Collection, Member, fingerprint, is_index, open_member, sequence_id
from distgen.store.format import FORMAT, MANIFEST
from distgen.store.work import Work, recover, settle, swap

_SHOWN = 3  # stores that cannot be used, in one message


def build_index(
    config: CollectionFile,
    out: Path | None = None,
    progress: Callable[[int], None] = lambda stores: None,
    *,
    force: bool = False,
) -> Path:
    """Write the index of a collection, or what has changed of it.

    Every store is opened and its manifest tried, except those whose manifest file is, by its BLAKE3, the one that the
    index that is there has seen: of these the file is only read through. No plane is read; that is what `distgen
    verify` does.

    Args:
        config: as read from its file.
        out: where the index goes; NAME.collection beside the file unless told.
        progress: called with the number of stores done since the last call.
        force: open every store.

    Returns:
        The index's path.

    Raises:
        ConfigError: there are no stores, one is named twice, two have one name, or `out` is something else.
        SourceError: the list of stores cannot be read.
        StoreError: stores are missing or damaged: how many, and the first of them by path; or the disk failed.
    """
    out = out or config.path.with_name(f"{config.collection.name}.collection")
    if out.exists() and not is_index(out):
        raise ConfigError(f"{out} exists and is no collection's index: move it away, or choose another place")
    old = None if force else _published(out)
    members = _read_members(config, _places(config, out), out, old, progress)
    work = Work(out)
    with work.locked():
        recover(work)
        manifest = write_index(work.folder / "index", config.collection, members, _weights(config, members))
        if old is None or old.manifest != manifest:
            settle(work.folder / "index")
            swap(work.folder / "index", work)
        work.remove()
    return out


def write_index(folder: Path, rules: Mixture, members: Sequence[Member], weights: Sequence[float]) -> dict[str, Any]:
    """Write the arrays and the manifest of an index into a folder, which is emptied first; returns the manifest.

    Of n stores there are, in the order of the collection's file:

    - `path`, `name`: uint8, UTF-8 end to end; `path_offset`, `name_offset` say where each begins.
    - `flat_offset`, `base_offset`, `contig_offset`: bases of the flat coordinate, bases of contigs, and contigs.
      Every offset is int64 (n + 1,): sums over the stores before, and over all.
    - `weight`: float64 (n,), shares that sum to 1.
    - `id`, `fingerprint`: uint8 (n, 16); see `Member`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    text = {"path": [os.fsencode(m.path) for m in members], "name": [os.fsencode(m.name) for m in members]}
    sizes = {f"{key}_offset": [len(word) for word in words] for key, words in text.items()}
    sizes["flat_offset"] = [m.length for m in members]
    sizes["base_offset"] = [m.bases for m in members]
    sizes["contig_offset"] = [m.contigs for m in members]
    marks = {"id": b"".join(m.id for m in members), "fingerprint": b"".join(m.fingerprint for m in members)}
    columns: dict[str, npt.NDArray[Any]] = {
        **{key: np.frombuffer(b"".join(words), np.uint8) for key, words in text.items()},
        **{key: np.concatenate([[0], np.cumsum(size)]).astype(np.int64) for key, size in sizes.items()},
        **{key: np.frombuffer(mark, np.uint8).reshape(len(members), -1) for key, mark in marks.items()},
        "weight": np.array(weights, np.float64) / math.fsum(weights),
    }
    group = {"distgen": {"format": FORMAT, "collection": rules.name}}
    format.write_group(folder, group)
    manifest = {
        "format": FORMAT,
        "group": format.group_json(group),
        "arrays": {key: format.write_array(folder / key, column) for key, column in columns.items()},
        "provenance": {"distgen": distgen.__version__, "collection": rules.model_dump(mode="json")},
    }
    manifest["checksum"] = digest(manifest)
    format.write_json(folder / MANIFEST, manifest)
    return manifest


def _published(out: Path) -> Collection | None:
    """The index that is there; None if there is none or it is damaged."""
    try:
        return Collection(out)
    except (StoreError, ConfigError):
        return None


def _places(config: CollectionFile, out: Path) -> list[str]:
    """Where the stores lie, as the index says it: what was written as a relative path stays one."""
    folder, beside = config.resolve(".", "store"), out.parent.resolve()
    key, written = "collection.stores", config.collection.stores
    if written is None:
        named = ((f"store.{row}.path", store.path) for row, store in enumerate(config.store))
        paths = [(key, _expand(config, path, key)) for key, path in named]
    elif glob.has_magic(written):
        found = glob.glob(_expand(config, written, key), root_dir=folder, recursive=True)
        paths = [(key, path) for path in sorted(found)]
    else:
        paths = [(key, _expand(config, path, key)) for path in _listed(config.resolve(written, key))]
    if not paths:
        raise config.error(key, f'"{written}" gives no store')
    places: dict[str, None] = {}
    for key, path in paths:
        place = path if os.path.isabs(path) else os.path.relpath(folder / path, beside)
        if place in places:
            raise config.error(key, f"store {path} is named twice")
        places[place] = None
    return list(places)


def _expand(config: CollectionFile, path: str, key: str) -> str:
    """An absolute path where the home folder or an environment variable stands in it."""
    return str(config.resolve(path, key)) if path.startswith("~") or "$" in path else path


def _listed(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is no text ({error}): it should list one store a line") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}): it should list one store a line") from None
    return [line for line in lines if line and not line.startswith("#")]


def _read_members(
    config: CollectionFile, places: list[str], out: Path, old: Collection | None, progress: Callable[[int], None]
) -> list[Member]:
    """What there is to say of each store; of those whose manifest file `old` has seen, what `old` says."""
    known = {member.path: member for member in old.members(0, len(old))} if old else {}
    members: dict[str, Member] = {}
    problems = []
    for place in places:
        try:
            member = _measure(place, out.parent, known.get(place))
        except StoreError as error:
            problems.append(str(error))
        else:
            if member.name in members:
                both = f"{members[member.name].path} and {place}"
                raise config.error("collection", f'stores {both} are both called "{member.name}"; names must differ')
            members[member.name] = member
        progress(1)
    if problems:
        first = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        raise StoreError(
            f"collection {config.path}: {len(problems):,} of {len(places):,} stores are not usable: {first}"
        )
    return list(members.values())


def _measure(place: str, folder: Path, known: Member | None) -> Member:
    path = folder / place
    try:
        seen = fingerprint(path)
    except OSError as error:
        what = f"has no manifest to read ({error.strerror})" if os.path.exists(path) else "does not exist"
        raise StoreError(f"store {path} {what}") from None
    if known is not None and seen == known.fingerprint:
        return known
    store = open_member(path)
    lengths = store.array("contigs/length").read()
    if not lengths.sum():
        raise StoreError(f"store {path} has no bases")
    return Member(place, store.name, store.length, int(lengths.sum()), len(lengths), sequence_id(store), seen)


def _weights(config: CollectionFile, members: list[Member]) -> list[float]:
    given = [member.weight for member in config.store if member.weight is not None]
    # In decimal arithmetic, because a processor's own power function is not the same everywhere to the last bit.
    exponent, context = Decimal(repr(config.collection.exponent)), Context(prec=28)
    return given or [float(context.power(Decimal(member.bases), exponent)) for member in members]
