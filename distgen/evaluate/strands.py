"""Both strands asked: the answers for a window and for its reverse complement, averaged (Quang and Xie 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgen.errors import ConfigError
from distgen.models.schema import Schema
from distgen.models.strands import other_inputs, other_outputs, rearranged
from distgen.objectives import Objective


class BothStrands(nn.Module):
    """A model, or an ensemble, that is asked a window as it is and as the other strand has it, and answers with the mean of
    both predictions: positions turned back, outputs that belong to strands in their places.

    Args:
        model: (B, inputs, L) to (B, outputs, L), or to (B, outputs, 1).
        schema: of it.
        objective: says what the mean of predictions is.

    Raises:
        ConfigError: what is asked has an answer on one strand alone.
    """

    def __init__(self, model: nn.Module, schema: Schema, objective: Objective):
        super().__init__()
        self.model, self._objective = model, objective
        self._inputs, self._outputs = other_inputs(schema), other_outputs(schema)

    def forward(self, x_BCL: Tensor) -> Tensor:
        here_BOL = self.model(x_BCL)
        there_BOL = self.model(rearranged(x_BCL, 1, self._inputs).flip(2))
        back_BOL = rearranged(there_BOL, 1, self._outputs).flip(2)
        return self._objective.average(torch.stack([here_BOL.float(), back_BOL.float()]))


def check_strands(schema: Schema, strand: str) -> None:
    """Refuse what cannot be asked of both strands.

    Args:
        strand: `data.strand` of the run.

    Raises:
        ConfigError: why not.
    """
    if strand == "region":
        raise ConfigError(
            'windows lie on their regions\' strands (data.strand = "region"), and the other one has no answer'
        )
    other_outputs(schema)
