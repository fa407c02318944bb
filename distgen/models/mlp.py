"""Feed-forward layers on one-hot bases (Rumelhart et al. 1986) or on bags of k-mers, as the spectrum kernel counts them (Leslie
et al. 2002), with normalisation (Ba et al. 2016) and dropout (Srivastava et al. 2014)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.config.file import TableError
from distgen.errors import ConfigError
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.schema import Schema

BASES = ("A", "C", "G", "T")


class MlpConfig(Family):
    """Sizes: `hidden` has one entry for each layer before the last.

    The first layer sees one-hot bases, or with `k` how often each word of these many bases occurs, wherever it stands: a bag
    of k-mers, on `both_strands` together or on the window's own. N and what lies beyond a window are in no k-mer. Where a
    window has one answer, the first layer sees all of it; where every base has one, `width` bases, of which it is the middle
    (k-mers then take 4^k numbers for each base). `dropout` is the share of what goes into the layers after the first that is
    left out in training.
    """

    family: Literal["mlp"]
    hidden: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (256, 128)
    k: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(strict=False)] = ()
    both_strands: bool = False
    width: Positive = 51
    dropout: Dropout = 0.3

    @model_validator(mode="after")
    def _check(self) -> MlpConfig:
        if self.both_strands and not self.k:
            raise TableError("counts k-mers of both strands, and there are none: give k, such as [5]", "both_strands")
        return self

    @property
    def receptive_field(self) -> int | None:
        """Bases that one output can see, where every base has one."""
        return self.width


class Mlp(nn.Module):
    """(B, inputs, L) to (B, outputs, L), or to (B, outputs, 1) where a whole window has one answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out; k-mers are counted in the channels "A", "C", "G" and "T", and see no others.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.

    Raises:
        ConfigError: what is seen holds no word of `k`.
    """

    def __init__(self, config: MlpConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        first, span = config.hidden[0], schema.window or config.width
        if config.k and max(config.k) > span:
            raise ConfigError(f"{span} bases hold no word of {max(config.k)}. Use {span} at most", key="model.k")
        self.context, self._window = context, schema.window
        self._sides = ((span - 1) // 2, span // 2)
        self.bag = Bag(config.k, schema, span, config.both_strands) if config.k else nn.Identity()
        # A convolution whose kernel is all that is seen: its weights have an axis of their own for the input channels.
        channels, width = (self.bag.size, 1) if isinstance(self.bag, Bag) else (len(schema.inputs), span)
        self.stem = nn.Conv2d(channels, first, (1, width))
        self.blocks = nn.ModuleList(_Block(*sizes, config.dropout) for sizes in pairwise(config.hidden))
        self.norm, self.dropout = nn.LayerNorm(config.hidden[-1]), nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden[-1], len(schema.outputs))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        if self._window is None:
            x_BCL = self._widened(x_BCL)
        elif self._window != x_BCL.shape[2]:
            raise ValueError(f"{x_BCL.shape[2]} bases are no window of {self._window}")
        seen_BF1L = self.bag(x_BCL).unsqueeze(2)
        x_BLH = self.stem(seen_BF1L.contiguous(memory_format=torch.channels_last)).squeeze(2).transpose(1, 2)
        x_BLH = F.gelu(x_BLH, approximate="tanh")
        for block in self.blocks:
            x_BLH = block(x_BLH)
        logits_BLO: Tensor = self.head(self.dropout(self.norm(x_BLH)))
        return logits_BLO.transpose(1, 2)

    def _widened(self, x_BCL: Tensor) -> Tensor:
        """With what the outermost bases see beyond: the neighbours' bases, or zeros."""
        if self.context is None:
            return F.pad(x_BCL, self._sides)
        return self.context.widen(x_BCL.transpose(1, 2), *self._sides).transpose(1, 2)


class _Block(nn.Module):
    """gelu(linear(norm(x))), on (B, L, from)."""

    def __init__(self, size: int, wider: int, dropout: float):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(size), nn.Dropout(dropout)
        self.linear = nn.Linear(size, wider)

    def forward(self, x_BLH: Tensor) -> Tensor:
        return F.gelu(self.linear(self.dropout(self.norm(x_BLH))), approximate="tanh")


class Bag(nn.Module):
    """How often each k-mer occurs in each stretch of `span` bases: (B, channels, L) to (B, size, L - span + 1).

    Of each k the counts are scaled to a mean square of 1, so that long windows and short ones, and words that are short and
    frequent or long and rare, look alike to what follows; all are 0 where there is no k-mer.

    A k-mer is there where its first half is and its second half begins behind it. So the counts of a window are a product
    of two matrices, (4^h, L) with (L, 4^(k-h)): of 6-mers, 64 numbers twice for each base and not 4,096; and the same bits each
    time, as nothing is scattered.

    Args:
        k: lengths of words.
        schema: where bases are among the channels.
        span: bases; of windows that are as long there is one bag each.
        both: of a word and its reverse complement there is one count, of both together.
    """

    def __init__(self, k: tuple[int, ...], schema: Schema, span: int, both: bool):
        super().__init__()
        self._k, self._span, self._both = k, span, both
        self._channels = [schema.inputs.index(base) for base in BASES]
        self._whole = schema.window is not None
        kept = {n: _canonical(n) for n in k} if both else {}
        self.size = sum(len(kept[n]) if both else 4**n for n in k)
        for n, canonical in kept.items():
            self.register_buffer(f"kept{n}", torch.tensor(canonical), persistent=False)

    def forward(self, x_BCL: Tensor) -> Tensor:
        # Counts are whole numbers, which bfloat16 could not hold.
        x_B4L = torch.stack([x_BCL[:, channel] for channel in self._channels], dim=1).float()
        with torch.autocast(x_BCL.device.type, enabled=False):
            parts = [self._counted(x_B4L, n) for n in self._k]
        return torch.cat(parts, dim=1).to(x_BCL.dtype)

    def _counted(self, x_B4L: Tensor, k: int) -> Tensor:
        half = k // 2
        last_BVL = words(x_B4L[:, :, half:], k - half)
        # Without a first half, every place where the second may begin counts.
        first_BUL = words(x_B4L, half)[:, :, : last_BVL.shape[2]] if half else torch.ones_like(last_BVL[:, :1])
        if self._whole:
            counts_BWS = (first_BUL @ last_BVL.transpose(1, 2)).flatten(1).unsqueeze(2)
        else:
            there_BWL = (first_BUL.unsqueeze(2) * last_BVL.unsqueeze(1)).flatten(1, 2)
            places = self._span - k + 1
            counts_BWS = F.avg_pool1d(there_BWL, places, 1) * places
        if self._both:
            # The reverse complement of a word: its letters, an axis each, in turned order, and each of them turned.
            letters = counts_BWS.unflatten(1, (4,) * k)
            turned = letters.permute(0, *range(k, 0, -1), k + 1).flip(list(range(1, k + 1)))
            counts_BWS = (letters + turned).flatten(1, -2).index_select(1, self.get_buffer(f"kept{k}"))
        return F.rms_norm(counts_BWS.transpose(1, 2), counts_BWS.shape[1:2], eps=1e-6).transpose(1, 2)


def words(x_B4L: Tensor, k: int) -> Tensor:
    """Which word of k bases begins at each: (B, 4, L) one-hot to (B, 4^k, L - k + 1), words in the order of the alphabet."""
    found_BWL = x_B4L
    for letter in range(1, k):
        following_B4L = x_B4L[:, :, letter:]
        found_BWL = found_BWL[:, :, : following_B4L.shape[2]]
        found_BWL = (found_BWL.unsqueeze(2) * following_B4L.unsqueeze(1)).flatten(1, 2)
    return found_BWL


def _canonical(k: int) -> list[int]:
    """The words that do not come after their reverse complement in the order of the alphabet."""
    places = np.arange(4**k)
    turned = sum((3 - places // 4**n % 4) * 4 ** (k - 1 - n) for n in range(k))
    return [int(place) for place in places[places <= turned]]
