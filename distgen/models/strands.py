"""Both strands alike: models that share their parameters between a window and its reverse complement.

Read from the other strand, a window has its bases in the reverse order and complemented; what such a model answers is then
reversed as well, and outputs that belong to strands have changed places (Shrikumar et al. 2017; Mallet and Vert 2021; Schiff
et al. 2024). Every layer between stem and head has its channels in pairs: one looks for something on this strand, the other
for the same on the other strand. They stand in the two halves of the channels (or of groups of channels: heads, what gates),
so the other strand swaps the halves. A layer keeps the numbers of the first half of its outputs, half of all; the second half
has them with the halves of what comes in swapped and the kernel reversed. A head keeps those of the first half of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distgen.config.file import TableError
from distgen.errors import ConfigError
from distgen.models.schema import Schema

_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}


def other_inputs(schema: Schema) -> tuple[int, ...]:
    """Which input channel is read in place of each on the other strand; of what is no base (a mask) the same."""
    partners = {name: _COMPLEMENT.get(name, name) for name in schema.inputs}
    return tuple(schema.inputs.index(other if other in partners else name) for name, other in partners.items())


def other_outputs(schema: Schema) -> tuple[int, ...]:
    """Which output takes the place of each on the other strand.

    Raises:
        ConfigError: what is asked has an answer on one strand alone.
    """
    if schema.swap is None:
        raise ConfigError("what is asked has an answer on the window's own strand alone, so the two cannot be alike")
    partner = dict(schema.swap) | {other: name for name, other in schema.swap}
    return tuple(schema.outputs.index(partner.get(name, name)) for name in schema.outputs)


def rearranged(x: Tensor, axis: int, order: tuple[int, ...]) -> Tensor:
    """The entries `order` of an axis. They are cut in slices as long as can be: an index would have to come from the host."""
    parts, first = [], 0
    while first < len(order):
        end, step = first + 1, -1 if order[first + 1 : first + 2] == (order[first] - 1,) else 1
        while end < len(order) and order[end] == order[end - 1] + step:
            end += 1
        part = x.narrow(axis, min(order[first], order[end - 1]), end - first)
        parts.append(part.flip(axis) if step < 0 else part)
        first = end
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def check_sizes(even: dict[str, int], reaches: Iterable[tuple[str, int, int]] = (), causal: bool = False) -> None:
    """Refuse sizes of which no half is the other strand's, kernels without a middle, and models that see one side alone.

    Args:
        even: what is halved, by key.
        reaches: key, width and dilation of each kernel.
        causal: a base sees what is before it alone.

    Raises:
        TableError: names the key, and what would fit.
    """
    if causal:
        raise TableError("a causal model reads one strand, and the other from its end. Leave out one of both", "rc")
    problems = [(key, size, "is no pair of halves, one for each strand") for key, size in even.items() if size % 2] + [
        (key, width, "has no middle to turn the kernel about") for key, width, step in reaches if step * (width - 1) % 2
    ]
    for key, size, why in problems:
        keys = [int(part) if part.isdigit() else part for part in key.split(".")]
        raise TableError(f'{size} {why}, as rc = "share" needs. Use {_near(size)}', *keys)


def _near(size: int) -> str:
    return f"{size - 1} or {size + 1}" if size > 1 else f"{size + 1}"


def check_schema(schema: Schema, multiple: int, causal: bool = False) -> None:
    """Refuse questions and windows that a model cannot answer alike on both strands.

    Args:
        multiple: bases that its windows are multiples of.
        causal: its outputs see what is before them alone.

    Raises:
        ConfigError: names the key, and what would fit.
    """
    if causal:
        raise ConfigError(
            "what is before a base on one strand is after it on the other: not with causal", key="model.rc"
        )
    try:
        other_outputs(schema)
    except ConfigError as error:
        raise ConfigError(f"{error.problem}. Leave it out", key="model.rc") from None
    if schema.window is not None and schema.window % 2 and multiple % 2 == 0:
        window = schema.window
        problem = f"{window} bases have no middle between positions of {multiple}: N stands on both sides alike"
        raise ConfigError(
            f"{problem}. Use data.window = {window + 1}, or an odd number of bases for each", key="model.rc"
        )


@dataclass(frozen=True)
class Inside:
    """The weights of a layer between stem and head, or of the stem, from those of the first half of its outputs.

    Args:
        groups: of output channels; in each the other strand swaps the halves.
        of: groups of input channels, likewise.
        turned: the input's groups also come in the reverse order: they are the positions of a window.
        order: which input takes the place of each, where inputs have names, instead of `of`.
    """

    groups: int = 1
    of: int = 1
    turned: bool = False
    order: tuple[int, ...] | None = None

    def keep(self, tensor: Tensor) -> nn.Parameter:
        """Of the numbers (out, ...) of a whole layer those of one strand: (out / 2, ...)."""
        return nn.Parameter(tensor.detach().unflatten(0, (self.groups, 2, -1))[:, 0].flatten(0, 1).clone())

    def whole(self, half: Tensor) -> Tensor:
        """What `keep` kept, of both strands: a bias (out / 2,), a matrix (out / 2, in), a kernel (out / 2, in, 1, width)."""
        other = half if half.ndim == 1 else self._swapped(half.flip(3) if half.ndim == 4 else half)
        if self.groups == 1:
            return torch.cat([half, other])
        parts = [part.unflatten(0, (self.groups, -1)) for part in (half, other)]
        return torch.stack(parts, 1).flatten(0, 2)

    def _swapped(self, weight: Tensor) -> Tensor:
        if self.order is not None:
            return rearranged(weight, 1, self.order)
        if self.of == 1:
            return weight.roll(weight.shape[1] // 2, 1)
        halves: Tensor = weight.unflatten(1, (self.of, 2, -1))
        return halves.flip((1, 2) if self.turned else 2).flatten(1, 3)


@dataclass(frozen=True)
class Last:
    """The weights of a head from those of the first half of its inputs.

    Args:
        order: which output takes the place of each on the other strand.
        of: groups of input channels; in each the other strand swaps the halves.
    """

    order: tuple[int, ...]
    of: int = 1

    def keep(self, weight: Tensor) -> nn.Parameter:
        """Of the weights (out, in) of a whole layer those of one strand: (out, in / 2)."""
        return nn.Parameter(weight.detach().unflatten(1, (self.of, 2, -1))[:, :, 0].flatten(1, 2).clone())

    def whole(self, half: Tensor) -> Tensor:
        """What `keep` kept, of both strands; of a bias (out,) outputs that change places have the mean of both."""
        other = rearranged(half, 0, self.order)
        if half.ndim == 1:
            return (half + other) / 2
        parts = [part.unflatten(1, (self.of, -1)) for part in (half, other)]
        return torch.stack(parts, 2).flatten(1, 3)


Shared = Inside | Last
