"""A trained model and its encoder as one program of torch.export: packed bases in, logits out, no distgen needed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from distgen.errors import ConfigError
from distgen.kernels import portable
from distgen.models.schema import Schema

BASES, MASK = "ACGT", "mask"


class Program(nn.Module):
    """Windows of packed planes to logits.

    Args:
        model: in evaluation mode: (B, inputs, length) to (B, outputs, length) or (B, outputs, 1).
        schema: of it.
        length: bases per window.

    Raises:
        ConfigError: the model takes channels that are no bases and no mask.
    """

    def __init__(self, model: nn.Module, schema: Schema, length: int):
        super().__init__()
        if strange := [name for name in schema.inputs if name not in (*BASES, MASK)]:
            raise ConfigError(f"the model takes {', '.join(strange)}: a program has no more than bases and a mask")
        self.model, self._inputs, self._length = model, schema.inputs, length

    @property
    def takes(self) -> tuple[str, ...]:
        """What it is called with, in this order."""
        hidden = ("hidden",) if MASK in self._inputs else ()
        return ("plane", "starts", "reverse", "ambiguous", "limits", *hidden)

    def forward(
        self,
        plane: Tensor,
        starts: Tensor,
        reverse: Tensor,
        ambiguous: Tensor,
        limits: Tensor,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """The first five as `distgen.kernels.tokens` takes them; hidden: bool (B, length), bases that a language model is to
        guess, counted as the window is read."""
        codes_BL = portable.tokens(plane, starts, self._length, reverse, ambiguous, limits)
        if hidden is not None:
            codes_BL = torch.where(hidden, -1, codes_BL)
        codes = [-1 if name == MASK else BASES.index(name) for name in self._inputs]
        x_BCL = torch.stack([codes_BL == code for code in codes], dim=1).float()
        logits_BOL: Tensor = self.model(x_BCL)
        return logits_BOL


def save_program(model: nn.Module, schema: Schema, length: int, path: Path) -> tuple[str, ...]:
    """Write a model and its encoder as a program of torch.export, for any number of windows and planes of any size.

    Args:
        model, schema, length: as `Program` takes them; the model is on the CPU, and its weights are laid out anew in memory.
        path: of the file, `.pt2`.

    Returns:
        The names of what it takes, in this order.

    Raises:
        ConfigError: torch cannot export it.
    """
    program = Program(model, schema, length).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # what else it writes whole, and warns of
    rows, ends = 3, torch.tensor([0, 4 * length])
    examples = {
        "plane": torch.zeros(length, dtype=torch.uint8),
        "starts": torch.arange(rows),
        "reverse": torch.zeros(rows, dtype=torch.bool),
        "ambiguous": torch.zeros(length, dtype=torch.uint8),
        "limits": ends.expand(rows, 2).contiguous(),
        "hidden": torch.zeros(rows, length, dtype=torch.bool),
    }
    windows = Dim("windows", min=1)
    sizes = {name: Dim(f"{name}_bytes", min=1) if name in ("plane", "ambiguous") else windows for name in examples}
    taken = program.takes
    try:
        with torch.no_grad():
            made = torch.export.export(
                program,
                tuple(examples[name] for name in taken),
                dynamic_shapes=tuple({0: sizes[name]} for name in taken),
            )
    except (TorchDynamoException, GuardOnDataDependentSymNode) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"torch {torch.__version__} makes no program of this model: {why}. Leave --program out"
        ) from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine are nobody's business
    torch.export.save(made, path)
    return taken
