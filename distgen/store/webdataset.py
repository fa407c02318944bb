"""Windows of a store as tar shards, for `webdataset` and any other reader of tar. The format: `distgen.store.exported`."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distgen.config import digest
from distgen.errors import ConfigError
from distgen.ingest.objects import Place
from distgen.store import format, upload
from distgen.store.cutting import Plan, plan_of
from distgen.store.exported import INDEX, Export, Shard, pieces, read_export
from distgen.store.reader import Store
from distgen.store.tar import BLOCK, END, tar_header
from distgen.store.work import Execute, Progress, Work, in_this_process, link, settle, silent, sync

SHARD_BYTES = 256_000_000
_LARGEST_OBJECT = 512_000_000  # bytes: it is in memory while it is sent


def export(
    store: Store,
    out: Place,
    *,
    window: int = 1024,
    target_length: int | None = None,
    stride: int | None = None,
    split: str = "default",
    parts: tuple[str, ...] = (),
    tracks: tuple[str, ...] = (),
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
    expect: Callable[[int], None] = lambda samples: None,
    execute: Execute = in_this_process,
) -> Export:
    """Write the windows of a split as tar shards; one that was interrupted goes on with the shards that are missing.

    Args:
        store: an open store.
        out: the folder to make; it appears when everything is written. In an object store, its index does.
        window: bases per window.
        target_length: bases in the window's middle that targets cover; the whole window if None.
        stride: bases from one target to the next; `target_length` if None.
        split: name of a split.
        parts: of the split; all that are not empty if none is named.
        tracks: names of the tracks to write as targets.
        shard_bytes: about how many bytes a shard has.
        progress: called with the samples written since the last call.
        expect: hears how many there are in all.
        execute: carries out tasks, a shard each; they can be pickled, and done in any order and more than once.

    Raises:
        ConfigError: an argument does not fit the store or the others, or `out` holds something else.
        SourceError: `out` holds this export, but damaged. StoreError: the system failed, such as by a full disk.
    """
    plan = plan_of(store, window, target_length, stride, split, parts, tracks, shard_bytes)
    described, shards = plan.describe(), plan.shards()
    if _is_taken(out, shards, shard_bytes):
        return _existing(out, described, shards)
    work, name = Work(out), digest([described, shard_bytes])
    expect(sum(shard.samples for shard in shards))
    with work.locked():
        sent = frozenset() if isinstance(out, Path) else frozenset(out.names())
        units = {shard.name: f"{name}-{shard.name}" for shard in shards}
        execute([partial(_finish, plan, shard, work, units[shard.name], sent) for shard in shards], progress)
        receipts = [work.receipt(units[shard.name]) or {} for shard in shards]
        named = [{"name": shard.name, "part": shard.part} for shard in shards]
        index = described | {"shards": [entry | receipt for entry, receipt in zip(named, receipts, strict=True)]}
        index |= {"checksum": digest(index)}
        if isinstance(work.out, Path):
            _publish(
                work.out, index, [work.path(unit) / shard for shard, unit in units.items()], work.folder / "export"
            )
        else:
            upload.commit(work.out / INDEX, None, format.json_bytes(index))
        work.remove()
    return read_export(out)


def _is_taken(out: Place, shards: list[Shard], shard_bytes: int) -> bool:
    """Whether there is something else than what an export that was stopped has left."""
    if isinstance(out, Path):
        return out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if shard_bytes > _LARGEST_OBJECT:
        raise ConfigError(f"{shard_bytes} is more than is sent at once ({_LARGEST_OBJECT})", key="shard_bytes")
    return bool(out.names().keys() - {shard.name for shard in shards})


def _publish(out: Path, index: dict[str, Any], files: list[Path], staged: Path) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    for file in files:
        link(file, staged / file.name)
    format.write_json(staged / INDEX, index)
    settle(staged)
    staged.rename(out)
    sync(out.parent)


def _finish(plan: Plan, shard: Shard, work: Work, unit: str, sent: frozenset[str], progress: Progress) -> None:
    """Write the unit of a shard unless it is finished; send it, where the export goes to an object store."""
    here = isinstance(work.out, Path)
    if work.receipt(unit) is not None and (here or shard.name in sent):
        progress(shard.samples)
        return
    folder = work.begin(unit)
    receipt = _write(folder / shard.name, plan.samples(shard), progress)
    if not isinstance(work.out, Path):
        upload.send({shard.name: folder / shard.name}, work.out)
        (folder / shard.name).unlink()  # each worker keeps one shard on this disk
    work.finish(unit, folder, receipt)


def _existing(out: Place, described: dict[str, Any], shards: list[Shard]) -> Export:
    """The export that is there already, if it is this one."""
    if not (out / INDEX).is_file():
        raise ConfigError(f"{out} exists and is no export; give another --out")
    found = read_export(out)
    for key, value in described.items():
        if found.index.get(key) != value:
            raise ConfigError(f"{out} holds another export ({key} differs); give another --out")
    if found.shards != shards:
        raise ConfigError(f"{out} holds this export in shards of another size; give another --out")
    for shard in shards:
        found.check(shard)
    return found


def _write(path: Path, samples: Iterator[tuple[str, dict[str, bytes]]], progress: Progress) -> dict[str, Any]:
    """Write one shard; returns what the index says of it."""
    count, content = 0, hashlib.sha256()
    with path.open("wb") as file:
        for key, members in samples:
            parts = []
            for suffix, data in members.items():
                parts += [tar_header(f"{key}.{suffix}", len(data)), data, bytes(-len(data) % BLOCK)]
            sample = b"".join(parts)
            content.update(sample)
            file.write(sample)
            count += 1
            progress(1)
        content.update(END)
        file.write(END)
        size = file.tell()
    crc = base64.b64encode(pieces(np.memmap(path, np.uint8, "r"))).decode()
    return {"samples": count, "bytes": size, "sha256": content.hexdigest(), "crc32c": crc}
