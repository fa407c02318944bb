"""What the filters of a first layer look for: the sites where each fits best, one under the other, as Alipanahi et al. 2015
(DeepBind) and Kelley et al. 2016 (Basset) read them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distgen import kernels
from distgen.errors import ConfigError
from distgen.evaluate.meme import Matrix
from distgen.evaluate.motifs import Motifs
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.models.layers import Convolution

_BASES = "ACGT"
_BEST = 4.0  # what a filter that begins as a motif gives where it fits best; where that is half as well, 0


@dataclass
class _Sites:
    """The best sites of a filter so far.

    Args:
        scores: float32 (n,), falling.
        starts: int64 (n,), in the assembly's flat coordinate; each is there once.
        codes: uint8 (n, W), as the filter reads them.
    """

    scores: NDArray[np.float32]
    starts: NDArray[np.int64]
    codes: NDArray[np.uint8]

    def add(self, other: _Sites, most: int) -> _Sites:
        scores = np.concatenate([self.scores, other.scores])
        starts, codes = np.concatenate([self.starts, other.starts]), np.concatenate([self.codes, other.codes])
        order = np.argsort(-scores, kind="stable")
        _, first = np.unique(starts[order], return_index=True)  # the same site in another window counts once
        kept = order[np.sort(first)[:most]]
        return _Sites(scores[kept], starts[kept], codes[kept])


def bases_stem(model: nn.Module, inputs: tuple[str, ...]) -> Convolution:
    """The first layer of a model that reads channels of these names.

    Raises:
        ConfigError: it is no convolution on bases.
    """
    stem = getattr(model, "stem", None)
    if not isinstance(stem, Convolution) or not set(_BASES) <= set(inputs):
        raise ConfigError(f"{type(model).__name__} begins with no convolution on bases: no filters of it are motifs")
    return stem


@torch.no_grad()
def find_motifs(
    model: nn.Module, inputs: tuple[str, ...], loader: Loader, sites: int = 1000
) -> tuple[list[Matrix], NDArray[np.float64]]:
    """A motif for each filter of a model's first layer.

    Of each window the best site is taken; of all these the `sites` best of a filter, where it gives more than nothing and
    more than half of what it gives at its best site.

    Args:
        model: with a convolution `stem` on bases.
        inputs: names of the model's channels; those that are no bases are 0.
        loader: whose windows are read, all of one epoch.
        sites: the most that are counted.

    Returns:
        The motifs called `filter-N`, without those that nothing fits; and the frequencies (4,) of the bases there.

    Raises:
        ConfigError: the model's first layer is no convolution on bases.
    """
    stem = bases_stem(model, inputs)
    filters, width = stem.weight.shape[0], stem.weight.shape[3]
    best = [_Sites(*_nothing(width)) for _ in range(filters)]
    background_4 = np.zeros(4)
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        codes_BL = kernels.tokens(**batch.packed)
        background_4 += np.bincount(codes_BL[batch.weight > 0].flatten().cpu().numpy(), minlength=5)[:4]
        x_BIL = _channels(batch, inputs)
        scores_BH1L = stem(x_BIL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        for k, found in enumerate(_best(scores_BH1L[:, :, 0].float(), codes_BL, batch, filters, width)):
            best[k] = best[k].add(found, sites)
    motifs = [_motif(f"filter-{k}", found) for k, found in enumerate(best)]
    return [motif for motif in motifs if motif.sites], background_4 / max(background_4.sum(), 1)


@torch.no_grad()
def begin_as(model: nn.Module, inputs: tuple[str, ...], motifs: Motifs) -> None:
    """Let the first filters of a model's first layer be motifs, by their log odds; the others stay as they were drawn.

    Where a filter is read on one strand, each motif is two of them, one for each. It lies in the middle of its filter, which
    sees nothing beside it; of a longer motif that stretch is taken which says most. DanQ-JASPAR (Quang and Xie 2016) begins so.

    Args:
        model: with a convolution `stem` on bases.
        inputs: names of the model's channels; those that are no bases are not looked at.
        motifs: of which there are no more than filters.

    Raises:
        ConfigError: there are more, or the model's first layer is no convolution on bases.
    """
    stem, bases = bases_stem(model, inputs), [inputs.index(base) for base in _BASES]
    assert stem.bias is not None
    filters, width = stem.weight.shape[0], stem.weight.shape[3]
    kernels_W4 = []
    for first, end in pairwise(motifs.starts.tolist()):
        forward_W4 = torch.from_numpy(_scaled(motifs.scores[first:end], width)).to(stem.weight)
        kernels_W4 += [forward_W4] if stem.both_strands else [forward_W4, forward_W4.flip(0, 1)]
    if len(kernels_W4) > filters:
        strands = "" if stem.both_strands else ", one for each strand"
        problem = (
            f"{len(motifs.names)} motifs are {len(kernels_W4)} filters{strands}, and the first layer has {filters}"
        )
        raise ConfigError(f"{problem}. Give it more, or fewer motifs")
    for place, kernel_W4 in enumerate(kernels_W4):
        left = (width - len(kernel_W4)) // 2
        stem.weight[place] = 0
        stem.weight[place, bases, 0, left : left + len(kernel_W4)] = kernel_W4.T
        stem.bias[place] = -_BEST / 2


def _scaled(odds_W4: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    if len(odds_W4) > width:
        said = np.convolve(odds_W4.max(1), np.ones(width), "valid")
        odds_W4 = odds_W4[said.argmax() :][:width]
    scaled: NDArray[np.float64] = odds_W4 * (_BEST / odds_W4.max(1).sum())
    return scaled


def _nothing(width: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8]]:
    return np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, width), np.uint8)


def _channels(batch: Batch, inputs: tuple[str, ...]) -> Tensor:
    bases_B4L = kernels.one_hot(**batch.packed, dtype=torch.float32)
    x_BIL = bases_B4L.new_zeros(len(bases_B4L), len(inputs), batch.length)
    x_BIL[:, [inputs.index(base) for base in _BASES]] = bases_B4L
    return x_BIL


def _best(scores_BHL: Tensor, codes_BL: Tensor, batch: Batch, filters: int, width: int) -> list[_Sites]:
    """The best site of each filter in each window that has one: all of it in the window, and all its bases known."""
    left = (width - 1) // 2
    sites_BPW = codes_BL.unfold(1, width, 1)
    whole_BP = (sites_BPW < 4).all(2) & (batch.weight > 0)[:, None]
    scores_BHP = scores_BHL[:, :, left : left + whole_BP.shape[1]].masked_fill(~whole_BP[:, None], -torch.inf)
    # Filters that are read on both strands have the other strand's scores after those of the first.
    scores_BKU = scores_BHP.unflatten(1, (-1, filters)).transpose(1, 2).flatten(2)
    best_BK, at_BK = scores_BKU.max(2)
    strand_BK, place_BK = at_BK // whole_BP.shape[1], at_BK % whole_BP.shape[1]
    rows_B1 = torch.arange(len(codes_BL), device=codes_BL.device)[:, None]
    found_BKW = sites_BPW[rows_B1, place_BK]
    found_BKW = torch.where((strand_BK > 0)[..., None], 3 - found_BKW.flip(2), found_BKW)
    backward = batch.length - width - place_BK
    starts_BK = batch.positions[:, None] + torch.where(batch.reverse[:, None], backward, place_BK).cpu()
    there_BK = best_BK.isfinite().cpu().numpy()
    columns = [tensor.cpu().numpy() for tensor in (best_BK, starts_BK, found_BKW)]
    return [_Sites(*(column[there_BK[:, k], k] for column in columns)) for k in range(filters)]


def _motif(name: str, found: _Sites) -> Matrix:
    fits = found.scores > max(found.scores.max(initial=0) / 2, 0)
    counts_W4 = (found.codes[fits][:, :, None] == np.arange(4)).sum(0)
    return Matrix(name, counts_W4 / max(fits.sum(), 1), int(fits.sum()))
