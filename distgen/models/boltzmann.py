"""A convolutional restricted Boltzmann machine: motifs that are found without labels.

Visible units are the bases, one of four at each position. Hidden units are K motifs at each position, on or off, as in Lee et
al. 2009 with their probabilistic max-pooling; on DNA as in Budach and Marsico 2018, where a motif is read on both strands with
one set of weights. It learns by persistent contrastive divergence (Tieleman 2008): the free energy of data goes down, and that
of chains, which Gibbs sampling carries on from step to step, goes up.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import accumulate
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distgen.config import Positive
from distgen.models.context import Context, dealt
from distgen.models.family import Family
from distgen.models.heads import head
from distgen.models.layers import Convolution, positions, rows
from distgen.models.schema import Schema
from distgen.models.strands import other_inputs, rearranged

# What a machine says of a whole window where it is asked for nothing else; free energies and likelihoods in nats.
ENERGIES = ("energy", "chains", "penalty", "pseudo", "rebuilt", "mirrored")
_MEMORY = 0.95  # of how dense motifs were, from step to step (Hinton 2010, section 11)


class BoltzmannConfig(Family):
    """Sizes: `motifs` filters of `width` bases. Of `pool` neighbouring positions, and of both strands there, one at most is on.

    The rest is how a machine learns by itself (objective "contrastive"): `chains` windows are kept, and each goes through
    `gibbs_steps` of Gibbs sampling for a step of training. A motif is to be on in the share `density` of all groups of
    `pool` positions; `sparsity` times the logarithm of how much denser it was is what each of them costs.
    """

    family: Literal["boltzmann"]
    motifs: Positive = 32
    width: Positive = 19
    pool: Positive = 1
    chains: Positive = 64
    gibbs_steps: Positive = 1
    density: Annotated[float, Field(gt=0, lt=1)] = 0.005
    sparsity: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5

    @property
    def multiple(self) -> int:
        """What lengths of windows are multiples of."""
        return self.pool

    @property
    def receptive_field(self) -> int | None:
        """Bases that one output can see."""
        return self.width + self.pool - 1


class Motifs(Convolution):
    """(B, inputs, 1, L) to (B, 2 * motifs, 1, L): how well each motif fits there, then how well on the other strand.

    Both look at the same bases: what the other strand's weights see is the reverse complement of what the motif does.
    """

    def __init__(self, schema: Schema, motifs: int, width: int, bias: float, context: Context | None):
        super().__init__(len(schema.inputs), motifs, width, context=context)
        self.complement = other_inputs(schema)
        with torch.no_grad():
            nn.init.normal_(self.weight, std=0.1)
            nn.init.constant_(self.bias, bias)  # type: ignore[arg-type]

    @property
    def both_strands(self) -> bool:
        return True

    def both(self) -> Tensor:
        """The weights of both strands, (2 * motifs, inputs, 1, width)."""
        weight = self.weight  # read once: where it is a sum of low rank, each reading takes it anew
        return torch.cat([weight, rearranged(weight, 1, self.complement).flip(3)])

    def forward(self, x_BI1L: Tensor) -> Tensor:
        assert self.bias is not None
        wide = F.pad(x_BI1L, self._sides) if self.context is None else self._widened(x_BI1L)
        return F.conv2d(wide, self.both(), self.bias.repeat(2))

    def down(self, hidden_BH1L: Tensor) -> Tensor:
        """(B, 2 * motifs, 1, L) that are on to what they say of the bases, (B, inputs, 1, L): the transpose of `forward`."""
        left, right = self._sides
        return F.conv2d(F.pad(hidden_BH1L, (right, left)), self.both().flip(3).transpose(0, 1))


class Boltzmann(nn.Module):
    """(B, inputs, L) to (B, outputs, L), or to (B, outputs, 1) where a whole window has one answer: a layer on how likely each
    motif is on at each position and strand. Asked for `ENERGIES` it is the machine itself.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.
    """

    summed: tuple[str, ...] = ()  # buffers that after a step are the sum of all workers'
    chain: Tensor
    usage: Tensor

    def __init__(self, config: BoltzmannConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        self._config = config
        bias = math.log(config.density / (2 * config.pool))  # as dense as they are to be, before anything is learned
        self.stem = Motifs(schema, config.motifs, config.width, bias, context)
        self.alone = schema.window is not None and schema.outputs[: len(ENERGIES)] == ENERGIES
        if schema.window is not None and self.alone:
            self.base = nn.Parameter(torch.zeros(len(schema.inputs)))
            # What it dreams of, int codes: they go on from step to step, so they are kept as weights are.
            chain_CL = torch.randint(len(schema.inputs), (config.chains, schema.window), dtype=torch.uint8)
            self.register_buffer("chain", chain_CL)
            # How dense motifs were in windows, summed, and of how many windows: what was is forgotten little by little.
            self.register_buffer("usage", torch.tensor([config.density] * config.motifs + [1.0]))
            self.summed = (
                "chain",
                "usage",
            )  # each worker carries on its share of the chains, and counts its own windows
        else:
            self.head = head(2 * config.motifs, schema)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BIL: Tensor) -> Tensor:
        if self.alone:
            # A window's free energy is hundreds of nats, of which a few count. (Where nothing is computed, nothing is cast.)
            kind = x_BIL.device.type
            with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
                return self._energies(x_BIL.float())
        scores_BLH = self._scores(x_BIL)
        logits_BLO: Tensor = self.head(self._likely(scores_BLH).to(scores_BLH.dtype))
        return logits_BLO.transpose(1, 2)

    def _energies(self, x_BIL: Tensor) -> Tensor:
        """(B, len(ENERGIES), 1). What is measured alone is 0 while it learns, and what is learned from alone while it is
        measured."""
        scores_BLH = self._scores(x_BIL)
        energy_B = self._free(x_BIL, scores_BLH)
        nothing_B = torch.zeros_like(energy_B)
        if self.training:
            found = [energy_B, self._carry_on().expand_as(energy_B), self._penalty(x_BIL, scores_BLH)]
            return torch.stack([*found, *[nothing_B] * 3], dim=1).unsqueeze(2)
        # Of what is unknown (all 0) nothing is counted.
        pseudo_B = -(x_BIL * self.conditionals(x_BIL).log_softmax(1)).sum((1, 2))
        rebuilt_B = -(x_BIL * self._visible(self._likely(scores_BLH)).log_softmax(1)).sum((1, 2))
        found = [energy_B, self.free_energy(self.dreams()).mean().expand_as(energy_B), nothing_B]
        found += [pseudo_B, rebuilt_B, self.free_energy(x_BIL.flip(2))]
        return torch.stack(found, dim=1).unsqueeze(2)

    def free_energy(self, x_BIL: Tensor) -> Tensor:
        """-log of the sum of exp(-E) over all that hidden units may be, (B,), nats."""
        return self._free(x_BIL, self._scores(x_BIL))

    def dreams(self) -> Tensor:
        """The chains as bases, float32 (chains, inputs, L)."""
        return self._bases(self.chain)

    @torch.no_grad()
    def conditionals(self, x_BIL: Tensor) -> Tensor:
        """What each base would be, all others given: logits (B, inputs, L), exact.

        A base changes only the groups of hidden units that see it. So many bases are replaced at once, each far enough from
        the next for no group to see two, and the free energy is added up around each.
        """
        (left, right), pool, (B, C, L) = self.stem._sides, self._config.pool, x_BIL.shape
        apart = -(-(left + right + pool) // pool) * pool
        base_I = self._base()
        found_BIL = x_BIL.new_empty(B, C, L)
        for first in range(min(apart, L)):
            at = torch.arange(first, L, apart, device=x_BIL.device)
            other_IBIL = x_BIL.repeat(C, 1, 1, 1)
            other_IBIL[:, :, :, at] = torch.eye(C, device=x_BIL.device)[:, None, :, None]
            on_BT = F.softplus(self._groups(self._scores(other_IBIL.flatten(0, 1)))).sum(-1)
            begin = (first - right) // pool  # the first group that sees the first of them
            size = len(at) * apart // pool
            around_BT = F.pad(on_BT, (-begin, size - (on_BT.shape[1] - begin)))
            around_IBN = around_BT.unflatten(1, (len(at), -1)).sum(2).unflatten(0, (C, B))
            found_BIL[:, :, at] = around_IBN.transpose(0, 1) + base_I[:, None]
        return found_BIL

    def _base(self) -> Tensor:
        """What each base is worth, alike on both strands."""
        return (self.base + rearranged(self.base, 0, self.stem.complement)) / 2

    def _bases(self, codes_BL: Tensor) -> Tensor:
        codes_I1 = torch.arange(len(self.base), device=codes_BL.device)[:, None]
        return (codes_BL[:, None] == codes_I1).float()

    def _scores(self, x_BIL: Tensor) -> Tensor:
        """(B, L, 2 * motifs): what a motif's unit has to say for being on."""
        return positions(self.stem(x_BIL.unsqueeze(2).contiguous(memory_format=torch.channels_last)))

    def _grouped(self, scores_BLH: Tensor) -> Tensor:
        """(B, T, pool * 2, motifs): units of which one at most is on. Positions beyond the window's end never are."""
        pool, L = self._config.pool, scores_BLH.shape[1]
        if L % pool:
            scores_BLH = F.pad(scores_BLH, (0, 0, 0, -L % pool), value=-math.inf)
        grouped_BTUK: Tensor = scores_BLH.unflatten(1, (-1, pool)).unflatten(3, (2, -1)).flatten(2, 3)
        return grouped_BTUK

    def _groups(self, scores_BLH: Tensor) -> Tensor:
        """(B, T, motifs): log of the summed exp of a group's units."""
        summed_BTK: Tensor = self._grouped(scores_BLH).float().logsumexp(2)
        return summed_BTK

    def _likely(self, scores_BLH: Tensor) -> Tensor:
        """How likely each unit is on, float32 (B, L, 2 * motifs)."""
        grouped_BTUK = self._grouped(scores_BLH).float()
        likely_BTUK = (grouped_BTUK - F.softplus(grouped_BTUK.logsumexp(2, keepdim=True))).exp()
        return self._flat(likely_BTUK, scores_BLH.shape[1])

    def _flat(self, grouped_BTUK: Tensor, length: int) -> Tensor:
        """The inverse of `_grouped`."""
        flat_BLH: Tensor = grouped_BTUK.unflatten(2, (-1, 2)).flatten(1, 2).flatten(2)
        return flat_BLH[:, :length]

    def _free(self, x_BIL: Tensor, scores_BLH: Tensor) -> Tensor:
        on_B = F.softplus(self._groups(scores_BLH)).sum((1, 2))
        return -on_B - (x_BIL.sum(2) * self._base()).sum(1)

    def _visible(self, hidden_BLH: Tensor) -> Tensor:
        """What hidden units say of the bases: logits (B, inputs, L)."""
        said_BI1L: Tensor = self.stem.down(rows(hidden_BLH))
        return said_BI1L.squeeze(2) + self._base()[:, None]

    def _penalty(self, x_BIL: Tensor, scores_BLH: Tensor) -> Tensor:
        """(B,): what motifs cost that were denser, up to this step, than they are to be; less than nothing for those that
        were rarer. Windows of which nothing is known are not counted."""
        likely_BTK = torch.sigmoid(self._groups(scores_BLH))
        with torch.no_grad():
            cost_K = self._config.sparsity * (self.usage[:-1] / self.usage[-1] / self._config.density).log()
            known_B = (x_BIL.sum((1, 2)) > 0).float()
            dense_K = (likely_BTK.mean(1) * known_B[:, None]).sum(0)
            _, _, workers = dealt(1)
            self.usage.mul_(_MEMORY / workers).add_(torch.cat([dense_K, known_B.sum(0, keepdim=True)]))
        cost_B: Tensor = (likely_BTK * cost_K).sum((1, 2))
        return cost_B

    def _carry_on(self) -> Tensor:
        """The mean free energy of the chains, after they went on; of several workers, each has that of its share: weighed by
        its windows, those of all weigh as much as all windows do, whoever has more of either."""
        first, end, _ = dealt(len(self.chain))
        with torch.no_grad():
            x_BIL = self._bases(self.chain[first:end])
            for _ in range(self._config.gibbs_steps):
                codes_BL = self._sample(x_BIL)
                x_BIL = self._bases(codes_BL)
            self.chain.zero_()[first:end] = codes_BL
        return self.free_energy(x_BIL).mean()

    def _sample(self, x_BIL: Tensor) -> Tensor:
        """Hidden units given the bases, then the bases given these: uint8 codes (B, L)."""
        L = x_BIL.shape[2]
        likely_BLH = self._likely(self._scores(x_BIL))
        upto_BTUK = _upto(self._grouped(likely_BLH).clamp(min=0), 2)  # -inf stands beyond the window's end
        drawn_BT1K = torch.rand_like(upto_BTUK[:, :, :1])
        below_BTUK = drawn_BT1K < upto_BTUK
        on_BTUK = below_BTUK & ~F.pad(below_BTUK[:, :, :-1], (0, 0, 1, 0))  # the first whose turn it is, or none
        logits_BIL = self._visible(self._flat(on_BTUK.float(), L))
        upto_BIL = _upto(logits_BIL.softmax(1), 1)
        return (torch.rand_like(upto_BIL[:, :1]) >= upto_BIL[:, :-1]).sum(1).to(torch.uint8)


def _upto(likely: Tensor, axis: int) -> Tensor:
    """Sums up to each entry of a short axis. (torch's own are summed in no fixed order on the GPU, or refused.)"""
    return torch.stack(list(accumulate(likely.unbind(axis))), dim=axis)
