"""CTCF on human chromosome 20: bound sites, negatives like them, and everything else."""

import gzip

import numpy as np
import pytest

from distgen import GenomeLoader
from distgen.config import Recipe, read
from distgen.store.build import build
from tests.conftest import genome

PARTS = {"train": [(0, 40_000_000), (52_000_000, 63_025_520)], "valid": [(40_000_000, 46_000_000)]}
PARTS["test"] = [(46_000_000, 52_000_000)]
SPLIT = '[split]\nvalid = ["20:40000000-46000000"]\ntest = ["20:46000000-52000000"]\n'
WINDOW, DISTANCE = 1000, 2000


def apart(one, other):
    """Kolmogorov and Smirnov's distance of two samples: between their cumulative distributions, the largest."""
    at = np.sort(np.concatenate([one, other]))
    return abs(
        np.searchsorted(np.sort(one), at, "right") / len(one)
        - np.searchsorted(np.sort(other), at, "right") / len(other)
    ).max()


@pytest.mark.data
def test_negatives_of_ctcf_are_like_its_sites_and_far_from_them_in_their_part(data, tmp_path):
    folder = data / "human_b37_chr20"
    peaks = folder / "chipseq_peaks/ChIPseq.K562.CTCF.narrowPeak.gz"
    (tmp_path / "h.toml").write_text(f'format = 1\n[assembly]\nname = "h20"\nfasta = "{folder / "20.fa.gz"}"\n{SPLIT}')
    build(read(tmp_path / "h.toml", Recipe), tmp_path / "h.zarr")
    _, (codes,) = genome(folder / "20.fa.gz")
    strong = np.r_[0, np.cumsum((codes == 1) | (codes == 2))]
    unknown = np.r_[0, np.cumsum(codes == 4)]
    lines = [line.split("\t") for line in gzip.decompress(peaks.read_bytes()).decode().splitlines()]
    starts, ends = (np.sort([int(line[column]) for line in lines]) for column in (1, 2))
    bound = {"name": "bound", "source": str(peaks), "at": "summit"}
    like = {"name": "like", "matches": "bound", "distance": DISTANCE}
    windows = {"pool": [bound, like, {"name": "rest", "distance": DISTANCE}], "max_ambiguous": 0.5}
    for part, stretches in PARTS.items():
        loader = GenomeLoader(
            tmp_path / "h.zarr", window=WINDOW, split=part, batch_size=96, windows=windows, placement="host"
        )
        places, labels = [], []
        for epoch in range(3):
            for position in range(0, len(loader) * 96, 96):
                batch = loader.batch(epoch, position)
                places += [(place.start, place.end) for place in batch.where()]
                labels += batch.targets["pool"].tolist()
                assert np.bincount(batch.targets["pool"]).tolist() == [32, 32, 32]
        (first, last), label = np.array(places).T, np.array(labels)
        assert all(any(s <= a + WINDOW // 2 < e for s, e in stretches) for a in first.tolist())
        # How many peaks begin before the window's end, widened, and how many end before its beginning.
        near = np.searchsorted(starts, last + DISTANCE, "left") - np.searchsorted(ends, first - DISTANCE, "right")
        assert not near[label == 1].any()
        assert all(
            any(s <= a and b <= e for s, e in stretches)
            for a, b in zip(first[label == 1], last[label == 1], strict=True)
        )
        inside = np.clip(first, 0, None), np.clip(last, None, len(codes))
        known = inside[1] - inside[0] - (unknown[inside[1]] - unknown[inside[0]])
        gc = (strong[inside[1]] - strong[inside[0]]) / np.maximum(known, 1)
        positive, negative, rest = (gc[label == number] for number in range(3))
        assert abs(positive.mean() - negative.mean()) < 0.003
        assert apart(positive, negative) < 0.05 < 0.25 < apart(positive, rest)
