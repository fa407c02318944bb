"""The windows of an export as a table of labelled sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distgen.genome import MISSING
from distgen.store.exported import Export, Sample, read_export

if TYPE_CHECKING:
    from distgen.ingest.tables import SequenceBlock

_BLOCK_BYTES = 1 << 22  # of samples, for a SequenceBlock


def read_blocks_of_export(folder: Path) -> Iterator[SequenceBlock]:
    """The windows of an export as a table of labelled sequences, part by part, some at a time.

    Ids are `contig:start-end`, letters lower case where soft-masked and N where ambiguous or outside. An export with one
    track that has one bin a window gives that as labels: classes as uint8 (n, columns), 0, 1 or 255 missing (kind
    "binary" if there is one column, else "multilabel"), signals as float32 (n, columns), as stored, NaN missing (kind
    "regression"). Any other export gives labels float32 (n, 0).

    Raises:
        SourceError: as `read_export` and `Export.samples`.
    """
    export = read_export(folder)
    most = max(1, _BLOCK_BYTES // export.sample_bytes)
    for part in export.parts:
        samples: list[Sample] = []
        for sample in export.samples(part):
            samples.append(sample)
            if len(samples) == most:
                yield _block(export, samples)
                samples = []
        if samples:
            yield _block(export, samples)


def _block(export: Export, samples: list[Sample]) -> SequenceBlock:
    from distgen.ingest.tables import SequenceBlock

    labels, names = _labels(export, samples)
    ids = [str(sample.where) for sample in samples]
    return SequenceBlock(
        ids,
        ids.__getitem__,
        [sample.part for sample in samples],
        np.concatenate([sample.letters for sample in samples]),
        np.arange(len(samples) + 1, dtype=np.int64) * export.window,
        labels,
        names,
        int((labels == MISSING if labels.dtype == np.uint8 else np.isnan(labels)).sum()),
    )


def _labels(export: Export, samples: list[Sample]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    tracks = list(export.tracks.items())
    if len(tracks) != 1 or tracks[0][1]["shape"][0] != 1:
        return np.empty((len(samples), 0), np.float32), ()
    name, track = tracks[0]
    columns, stored = tuple(track["columns"]), np.concatenate([sample.targets[name] for sample in samples])
    if track["classes"]:
        return stored, columns if len(columns) > 1 else ("0", "1")
    if stored.dtype == np.uint8:
        stored = np.where(stored == MISSING, np.nan, stored)
    return stored.astype(np.float32), columns
