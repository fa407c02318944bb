"""Whether a model can answer what a run asks at all: what it must not see, what it must, and how finely it tells bases apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from distgen import models, objectives
from distgen.config import Lengths
from distgen.errors import ConfigError
from distgen.objectives import Objective
from distgen.objectives.causal_lm import CausalLMConfig
from distgen.objectives.masked_lm import MaskedLMConfig


def check_model(
    model: models.ModelConfig,
    asked: objectives.ObjectiveConfig,
    objective: Objective,
    lengths: Sequence[Lengths],
) -> None:
    """Refuse a model that would train and could not learn, or would look as if it had.

    Args:
        model: `[model]` of a run.
        asked: its `[objective]`.
        objective: made of it.
        lengths: of windows; of a curriculum, those that stay come last.

    Raises:
        ConfigError: names the whole key, and what would fit.
    """
    if isinstance(asked, CausalLMConfig):
        _check_causal(model)
    if objective.window is not None:
        return  # whatever one position sees or stands for, the answer is made of all of them
    _check_sight(model, asked)
    _check_steps(model, asked, objective, lengths)


def _check_causal(model: models.ModelConfig) -> None:
    if getattr(model, "causal", False):
        return
    problem = f'"{model.family}" looks at both sides of a base and would see what it is to guess'
    if "causal" in type(model).model_fields:
        raise ConfigError(f"{problem}. Use true", key="model.causal")
    able = [kind.model_fields for kind in models.FAMILIES if "causal" in kind.model_fields]
    names = " or ".join(f'"{get_args(fields["family"].annotation)[0]}"' for fields in able)
    raise ConfigError(f"{problem}. Use {names} with causal = true", key="model.family")


def _check_sight(model: models.ModelConfig, asked: objectives.ObjectiveConfig) -> None:
    """A model sees more than what tells it nothing. None of these could do better than a table of counts."""
    least, why = 2, "each base would be answered for by itself alone"
    if isinstance(asked, MaskedLMConfig) and asked.span > 1:
        least, why = asked.span + 1, f"of the {asked.span} bases that are hidden together, some would see nothing else"
    elif isinstance(asked, CausalLMConfig):
        why = "each base would be guessed from one, as a Markov model of order 1 does"
    sees = model.receptive_field
    if sees is not None and sees < least:
        bases = "1 base" if sees == 1 else f"{sees} bases"
        raise ConfigError(
            f'this "{model.family}" sees {bases} at a time: {why}. Make it wider, to see {least} or more', key="model"
        )


def _check_steps(
    model: models.ModelConfig,
    asked: objectives.ObjectiveConfig,
    objective: Objective,
    lengths: Sequence[Lengths],
) -> None:
    """Bases that a model gives one answer for all lie in one bin."""
    step, bin_bp = model.resolution, objective.bin_bp
    if bin_bp % step:
        what = f'"{objective.tracks[0]}" has bins of {bin_bp}' if objective.tracks else f'"{asked.kind}" asks of each'
        other = f", a track whose bin_bp is a multiple of {step}" if objective.tracks else ""
        raise ConfigError(
            f'this "{model.family}" has one answer for {step} bases, and {what}. '
            f"Use sizes that make it {math.gcd(step, bin_bp)}{other}, or a family that answers for single bases",
            key="model",
        )
    for number, own in enumerate(lengths):
        window, target = own.window, own.window if own.target_length is None else own.target_length
        if (window - target) // 2 % step == 0:
            continue
        # Windows are multiples of what share an answer, so what is left of one without whole margins is too.
        fitting = [n for n in range(window % (2 * step) or 2 * step, window + 1, 2 * step) if n % bin_bp == 0]
        near = [*[n for n in fitting if n < target][-1:], *[n for n in fitting if n > target][:1]]
        where = f"curriculum.{number}." if number < len(lengths) - 1 else ""
        raise ConfigError(
            f"{target} in a window of {window} begins between the {step} bases for which this "
            f'"{model.family}" has one answer. Use {" or ".join(map(str, near))}',
            key=f"data.{where}target_length",
        )
