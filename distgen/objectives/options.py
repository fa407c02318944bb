"""Options that several questions have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def _focal(power: float) -> float:
    if 0 < power < 1:
        raise ValueError(f"{power:g} has no finite gradient where a model is sure. Use 0, or 1 and more")
    return power


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Focal = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_focal)]
