"""Build a store from a recipe: pack the planes, paint the tracks, publish the manifest last."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import distgen
from distgen.config import Recipe, Track, digest
from distgen.errors import ConfigError, StoreError, suggest
from distgen.genome import ALIGNMENT, AMBIGUOUS, Contigs, match
from distgen.ingest.fasta import Header, Piece, read_fasta
from distgen.ingest.open import sha256
from distgen.store import format, splits
from distgen.store.format import FORMAT, MANIFEST, ArrayWriter, Bytes
from distgen.store.reader import open_store

Progress = Callable[[int], None]


def build(recipe: Recipe, out: Path, progress: Progress = lambda bases: None, *, force: bool = False) -> int:
    """Build the store that a recipe describes, or leave it alone if it is there already.

    Everything is written to a temporary folder beside `out` and renamed when whole: whatever interrupts a
    build, no half store is left under the name. The same recipe and sources give the same bytes.

    Args:
        recipe: as read from its file.
        out: where the store is to be.
        progress: called with the number of bases read since the last call.
        force: build also if the store is up to date, such as one that is damaged.

    Returns:
        The bases kept in the store (padding left out); 0 if `out` was up to date.

    Raises:
        ConfigError, SourceError: the recipe or a source is wrong, or `out` is something else. StoreError: the disk failed.
    """
    provenance = _provenance(recipe)
    _recover(out)
    if out.exists() and not (out / MANIFEST).exists():
        raise ConfigError(f"{out} exists and is no store (it has no manifest): give another --out, or move it away")
    if out.exists() and not force and _published(out) == provenance:
        return 0
    with _temporary(out) as folder:
        arrays, contigs = _build_planes(recipe, folder, progress)
        tracks = {track.name: _build_track(recipe, i, contigs, folder, arrays) for i, track in enumerate(recipe.track)}
        try:
            split = splits.resolve(recipe.split, contigs)
        except ConfigError as error:
            part, _, problem = str(error).partition(": ")
            raise recipe.error(f"split.{part}", problem) from None
        manifest = {
            "format": FORMAT,
            "generation": 1,
            "group": format.read_json(folder / "zarr.json"),
            "arrays": arrays,
            "tracks": tracks,
            "splits": {"default": split},
            "provenance": provenance,
        }
        format.write_json(folder / MANIFEST, manifest | {"checksum": digest(manifest)})
        _publish(folder, out)
    return int(contigs.lengths.sum())


def default_out(recipe: Recipe) -> Path:
    """Where a recipe's store goes unless told: `store/` beside the folder of recipes."""
    out = recipe.path.resolve().parent.parent / "store" / f"{recipe.assembly.name}.zarr"
    return out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out


def _published(out: Path) -> Any:
    """The provenance of a store that is there; None if its manifest is damaged."""
    try:
        return open_store(out).manifest["provenance"]
    except StoreError:
        return None


def _provenance(recipe: Recipe) -> dict[str, Any]:
    """What the store is made of: nothing in it depends on when or where it was built."""
    sources = {}
    named = [("assembly.fasta", recipe.assembly.fasta)]
    named += [(f"track.{i}.source", track.source) for i, track in enumerate(recipe.track)]
    for key, source in named:
        path = recipe.resolve(source, key)
        if not path.is_file():
            near = [str(other.name) for other in path.parent.glob("*")] if path.parent.is_dir() else []
            raise recipe.error(key, f"there is no file {path}. {suggest(path.name, near)}")
        sources[source] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    expected, found = recipe.assembly.sha256, sources[recipe.assembly.fasta]["sha256"]
    if expected is not None and found != expected:
        raise recipe.error(
            "assembly.sha256", f"{recipe.assembly.fasta} has {found}; fetch it again or correct the recipe"
        )
    return {"distgen": distgen.__version__, "recipe": recipe.text, "sources": sources}


# ---- planes ---------------------------------------------------------------------------------


def pack_sequence(codes: Bytes) -> Bytes:
    """Base codes 0 to 3 (n,), n a multiple of 4, to 2 bits a base: base i in bits 2*(i % 4) of byte i // 4."""
    words = codes.view(np.uint32)
    pairs = words | (words >> np.uint32(6))
    packed: Bytes = (pairs | (pairs >> np.uint32(12))).astype(np.uint8)
    return packed


def pack_bits(flags: npt.NDArray[np.bool_]) -> Bytes:
    """Flags (n,) to 1 bit each: flag i in bit i % 8 of byte i // 8."""
    return np.packbits(flags, bitorder="little")


def _pack(piece: Piece) -> tuple[Bytes, Bytes, Bytes]:
    """One piece as bytes of the three planes, padded to whole 64 bases."""
    padding = -len(piece.codes) % ALIGNMENT
    codes = np.pad(piece.codes, (0, padding)) if padding else piece.codes
    lower = np.pad(piece.lower, (0, padding)) if padding else piece.lower
    ambiguous = codes == AMBIGUOUS
    return pack_sequence(np.where(ambiguous, np.uint8(0), codes)), pack_bits(ambiguous), pack_bits(lower)


def _build_planes(recipe: Recipe, folder: Path, progress: Progress) -> tuple[dict[str, Any], Contigs]:
    fasta = recipe.resolve(recipe.assembly.fasta, "assembly.fasta")
    planes = {
        name: ArrayWriter(folder / name, (), format.bytes_layout, sparse=name != "sequence")
        for name in ("sequence", "ambiguous", "softmask")
    }
    names, aliases, lengths, offsets, seen = [], [], [], [], []
    offset = 0
    for header, pieces in groupby(read_fasta(fasta), key=lambda piece: piece.header):
        seen += [header.name, header.alias]
        if not _wanted(recipe, header):
            progress(sum(len(piece.codes) for piece in pieces))
            continue
        packed, length = [], 0
        for piece in pieces:
            packed.append(_pack(piece))
            length += len(piece.codes)
            progress(len(piece.codes))
        if length < recipe.contigs.min_length:
            continue
        for name, blocks in zip(planes, zip(*packed, strict=True), strict=True):
            for block in blocks:
                planes[name].write(block)
        names.append(header.name)
        aliases.append(header.alias)
        lengths.append(length)
        offsets.append(offset)
        offset += -(-length // ALIGNMENT) * ALIGNMENT
    _refuse_idle_patterns(recipe, seen)
    if not names:
        raise recipe.error("contigs", f"no contig of {recipe.assembly.fasta} is left of {len(seen) // 2}")
    arrays = {name: writer.close() for name, writer in planes.items()}
    contigs = Contigs(tuple(names), np.array(lengths), np.array(offsets), tuple(aliases))
    attributes = {"format": FORMAT, "assembly": recipe.assembly.name, "length": offset, "alignment": ALIGNMENT}
    format.write_group(folder, {"distgen": attributes})
    _write_contigs(contigs, folder, arrays)
    return arrays, contigs


def _wanted(recipe: Recipe, header: Header) -> bool:
    def listed(patterns: Iterable[str]) -> bool:
        return any(match(pattern, (header.name, header.alias)) for pattern in patterns)

    return listed(recipe.contigs.include) and not listed(recipe.contigs.exclude)


def _refuse_idle_patterns(recipe: Recipe, names: list[str]) -> None:
    """A pattern that matches no contig is a typing error, not a wish."""
    for key in ("include", "exclude"):
        for pattern in getattr(recipe.contigs, key):
            if pattern != "*" and not match(pattern, names):
                raise recipe.error(f"contigs.{key}", f'no contig matches "{pattern}". {suggest(pattern, names)}')


def _write_contigs(contigs: Contigs, folder: Path, arrays: dict[str, Any]) -> None:
    format.write_group(folder / "contigs", {})
    columns: dict[str, npt.NDArray[Any]] = {
        "name": _text(contigs.names),
        "alias": _text(contigs.aliases),
        "length": contigs.lengths.astype("<i8"),
        "offset": contigs.offsets.astype("<i8"),
    }
    for name, column in columns.items():
        arrays[f"contigs/{name}"] = _write_table(folder / "contigs" / name, [column])


def _text(words: tuple[str, ...]) -> Bytes:
    """Words as UTF-8 rows, padded with zeros: an array that any Zarr reader understands."""
    fixed = np.array([word.encode() for word in words])
    width = max(fixed.dtype.itemsize, 1)
    return np.frombuffer(fixed.astype(f"S{width}").tobytes(), np.uint8).reshape(len(words), width)


def _write_table(folder: Path, blocks: Iterable[npt.NDArray[Any]], codec: format.Codec = "raw") -> dict[str, Any]:
    writer: ArrayWriter | None = None
    for block in blocks:
        if writer is None:
            layout = partial(_rows, block.shape[1:], block.dtype, codec)
            writer = ArrayWriter(folder, block.shape[1:], layout)
        writer.write(block)
    assert writer is not None
    return writer.close()


def _rows(row_shape: tuple[int, ...], dtype: np.dtype[Any], codec: format.Codec, rows: int) -> format.Layout:
    return format.rows_layout((rows, *row_shape), dtype, codec)


# ---- tracks ---------------------------------------------------------------------------------


def _build_track(recipe: Recipe, number: int, contigs: Contigs, folder: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    """Write one track under a key that holds its content id; returns what the manifest says of it."""
    from distgen.ingest import features

    track = recipe.track[number]
    found = features.read_gtf(recipe.resolve(track.source, f"track.{number}.source"), track.classes, contigs)
    blocks = (
        features.paint(found, row, int(length), len(track.classes), track.bin_bp)
        for row, length in enumerate(contigs.lengths)
    )
    if not (folder / "tracks").exists():
        format.write_group(folder / "tracks", {})
    draft = folder / "tracks" / track.name
    entry = _write_table(draft / "values", blocks, codec="zstd")
    format.write_group(draft, _describe(track))
    key = f"tracks/{track.name}.{entry['id'][:8]}"
    draft.rename(folder / key)
    arrays[f"{key}/values"] = entry
    return {"array": f"{key}/values", "skipped": found.skipped, **_describe(track)}


def _describe(track: Track) -> dict[str, Any]:
    return {"classes": list(track.classes), "bin_bp": track.bin_bp, "swap": list(track.permutation())}


# ---- publishing -----------------------------------------------------------------------------

# Hidden names beside a store: .NAME.HOST-PID-XXXX.building, and .NAME.old for the one that is being replaced.


@contextmanager
def _temporary(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone afterwards unless it was published; those of dead builders go too."""
    host = platform.node().replace(".", "_") or "host"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for old in out.parent.glob(f".{out.name}.{host}-*.building"):
            if not _alive(int(old.name.removeprefix(f".{out.name}.{host}-").split("-")[0])):
                shutil.rmtree(old, ignore_errors=True)
        prefix = f".{out.name}.{host}-{os.getpid()}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".building", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"{out}: cannot write here ({error.strerror or error})") from None
    try:
        folder.chmod(0o755)
        yield folder
    except OSError as error:
        raise StoreError(f"{out}: the build stopped ({error.strerror or error}); nothing was published") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replaced(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _publish(folder: Path, out: Path) -> None:
    """Put the finished folder in the place of `out`; a store that was there goes away afterwards."""
    if out.exists():
        out.rename(_replaced(out))
    folder.rename(out)
    parent = os.open(out.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)
    shutil.rmtree(_replaced(out), ignore_errors=True)


def _recover(out: Path) -> None:
    """Finish what a builder left that died between the two renames of `_publish`."""
    if _replaced(out).exists():
        if out.exists():
            shutil.rmtree(_replaced(out), ignore_errors=True)
        else:
            _replaced(out).rename(out)
