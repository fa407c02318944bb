"""Stores and exports in object stores: what was built here is sent, and one conditional put makes it what is to be read.

Nothing is overwritten that is there, unless that is asked for by name: every object is created, and one that is there
already must be the same. So two builders never mix, an upload that was stopped goes on where it was, and readers of an
earlier generation find all of it. What follows: the planes of a store elsewhere are those it was created with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, TypeVar

from distgen.errors import ConfigError, RemoteError, StoreError, some
from distgen.ingest.objects import Object, Place
from distgen.store import format
from distgen.store.base import KEYS
from distgen.store.format import MANIFEST
from distgen.store.verify import KINDS

T = TypeVar("T")

IN_FLIGHT = 3  # objects of up to 64 MiB at a time; each is in memory twice
_KEYS = ("zarr.json", MANIFEST, *KEYS, *KINDS)  # with what the names of a store's objects begin


def refuse_others(out: Object) -> None:
    """Raise ConfigError if there are objects that no build has put there."""
    others = sorted(name for name in out.names() if name.split("/")[0] not in _KEYS)
    if others:
        raise ConfigError(f"{out} is no store, it holds {some(others)}: give another --out, or move that away")


def publish(folder: Path, out: Object, old: dict[str, Any] | None, *, force: bool, last: Callable[[], None]) -> None:
    """Send the files of a folder, the manifest last, by which all of it becomes the store.

    Args:
        folder: what a build has put under its keys, with the manifest.
        out: where the store is to be.
        old: the manifest that this one follows; None if there is none.
        force: overwrite what differs; a manifest that is there goes away before.
        last: called before the manifest is put.

    Raises:
        ConfigError: something else is there. StoreError: another builder was first. RemoteError: a request failed.
    """
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    new = files.pop(MANIFEST).read_bytes()
    before = format.json_bytes(old) if old else None
    if force:
        before = _current(out / MANIFEST)
    send(files, out, force=force, hide=lambda: _hide(out, before, new))
    last()
    commit(out / MANIFEST, _current(out / MANIFEST) if force else before, new)


def send(files: dict[str, Path], out: Object, *, force: bool = False, hide: Callable[[], None] = lambda: None) -> None:
    """Create objects from files, and see that all of them are there.

    Args:
        files: by the names of the objects in `out`.
        out: the folder.
        force: overwrite objects that are there, and differ.
        hide: called once before anything is overwritten.

    Raises:
        ConfigError: an object is there, and differs. RemoteError: a request failed, or an object is not what was sent.
    """
    there = out.names()
    known = [name for name in files if name in there]
    other = [
        name
        for name, same in zip(
            known, _each(out, known, lambda name: (out / name).holds(files[name], there[name])), strict=True
        )
        if not same
    ]
    if other and not force:
        raise _occupied(out / other[0])
    if other:
        hide()
    _each(out, other, lambda name: _send(out / name, files[name], "overwrite"))
    _each(out, [name for name in files if name not in there], lambda name: _send(out / name, files[name], "create"))
    if lost := files.keys() - out.names().keys():
        raise RemoteError(f"{out}: {some(sorted(lost))} went away; is this prefix being cleared? Nothing was published")


def commit(item: Object, before: bytes | None, new: bytes) -> None:
    """Put an object in the place of what was there, if that is still there.

    Args:
        item: the object.
        before: what it holds; None if there is none.
        new: what it is to hold; nothing is done if it holds that.

    Raises:
        StoreError: it holds something else. RemoteError: a request failed.
    """
    try:
        found, meta = item.read()
    except FileNotFoundError:
        found, meta = None, None
    if found == before != new:
        item.put(new, meta or "create")
        found = _current(item)  # a put whose answer was lost is made twice, and refused the second time
    if found != new:
        raise StoreError(
            f"{item}: another builder was first, and has published; nothing of this build is seen. The same command "
            "builds what is still missing, and --prune removes what is left over"
        )


def overwrite(place: Place, content: bytes | Path | None) -> None:
    """Put a damaged file or object right; None: there should be none."""
    if content is None:
        place.delete([""]) if isinstance(place, Object) else place.unlink()
    elif isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{place.name}.new")
        with new.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        new.rename(place)
    else:
        place.put(content, "overwrite")


def _hide(out: Object, before: bytes | None, new: bytes) -> None:
    """A store whose objects are about to change is none until they have; what is only mended is one all the time."""
    if before is not None and before != new:
        out.delete([MANIFEST])


def _current(item: Object) -> bytes | None:
    try:
        return item.read_bytes()
    except FileNotFoundError:
        return None


def _send(item: Object, path: Path, mode: Literal["create", "overwrite"]) -> None:
    item.put(path, mode)  # where something has come meanwhile, it is looked at as well
    if not item.holds(path, item.find()):
        raise _occupied(item)


def _occupied(item: Object) -> ConfigError:
    return ConfigError(
        f"{item} is there, and is not what was built: another build writes there, or was given up. Give another --out, or "
        "overwrite it with --force"
    )


def _each(out: Object, names: Iterable[str], task: Callable[[str], T]) -> list[T]:
    """The results of a task, several at a time; the first that fails ends the others."""
    pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="distgen-send")
    try:
        futures = [pool.submit(task, name) for name in names]
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]
    finally:
        out.stop.set()
        pool.shutdown(cancel_futures=True)
        out.stop.clear()
