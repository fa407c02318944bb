"""What windows have in common: data against what the machine dreams of (contrastive divergence, Hinton 2002; with chains that
persist, Tieleman 2008)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from distgen import kernels
from distgen.config import Sample, Section
from distgen.loader.batch import Batch
from distgen.loader.plan import window_of
from distgen.models.boltzmann import ENERGIES
from distgen.objectives.mean import mean
from distgen.objectives.source import Stores, whole_windows


class ContrastiveConfig(Section):
    """How it learns is the model's affair: see `chains` and `gibbs_steps` of the family "boltzmann"."""

    kind: Literal["contrastive"]


class Contrastive:
    """Four input channels (one-hot); the outputs are what a machine says of a whole window, see `ENERGIES`.

    Attributes:
        family: the one that has free energies.
    """

    family = "boltzmann"
    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    outputs: tuple[str, ...] = ENERGIES
    in_channels = 4
    out_channels = len(ENERGIES)
    tracks: tuple[str, ...] = ()
    bin_bp = 1
    swap: tuple[tuple[str, str], ...] | None = ()

    def __init__(self, store: Stores, data: Sample):
        """Raises ConfigError: windows are not each one row of one length."""
        self.window: int | None = window_of(whole_windows(store, data, "objective.kind"), data)

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The target is how many bases of each window are known, (B,); windows without any don't count, and nothing is known
        of rows that pad a batch."""
        x_BCL = kernels.one_hot(**batch.packed, dtype=dtype) * (batch.weight > 0).to(dtype)[:, None, None]
        known_B = x_BCL.sum((1, 2), dtype=torch.float32)
        return x_BCL, known_B, known_B > 0

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient is that of the likelihood, as far as the chains have come to what the machine dreams of; what it is
        says nothing of how good a machine is."""
        energy_B, chains_B, penalty_B = logits_BOL[:, :3, 0].float().unbind(1)
        return ((energy_B - chains_B + penalty_B) * valid).sum(), (target * valid).sum()

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The mean of what each machine says."""
        return logits_MBOL.float().mean(0)

    def metrics(self, device: torch.device) -> ContrastiveMetrics:
        return ContrastiveMetrics(device)


class ContrastiveMetrics:
    """Of known bases: bits for each given all others (Besag 1975; "loss" is that in nats), and bits for each as hidden units
    rebuild it. Of windows, in nats a base: by how much the chains' free energy is above theirs, and that of their mirror
    images, which have the same bases and no motif; and the share that is below its mirror image."""

    def __init__(self, device: torch.device):
        # Sums over all bases as means over windows, one by the other: torchmetrics weighs nothing where NaN is let through.
        self._known, self._below = mean(device), mean(device)
        self._of = {name: mean(device) for name in ("pseudo", "rebuilt", "chains", "mirrored")}

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        energy_B, chains_B, _, pseudo_B, rebuilt_B, mirrored_B = logits_BOL[valid][..., 0].double().unbind(1)
        self._known.update(target[valid])
        self._below.update((mirrored_B > energy_B).double())
        found = (pseudo_B, rebuilt_B, chains_B - energy_B, mirrored_B - energy_B)
        for metric, value_B in zip(self._of.values(), found, strict=True):
            metric.update(value_B)

    def compute(self) -> dict[str, float | dict[str, float]]:
        known = self._known.compute()
        a_base = {name: float(metric.compute() / known) for name, metric in self._of.items()}
        return {
            "loss": a_base["pseudo"],
            "bits_per_base": a_base["pseudo"] / math.log(2),
            "rebuilt_bits_per_base": a_base["rebuilt"] / math.log(2),
            "gap_to_chains": a_base["chains"],
            "gap_to_mirrored": a_base["mirrored"],
            "below_mirrored": float(self._below.compute()),
        }
