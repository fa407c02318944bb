"""What the configs of all families say of themselves."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from distgen.config import Section

Dropout = Annotated[float, Field(ge=0, lt=1)]


class Family(Section):
    """Sizes of a model, and what follows from them; a family says where it is otherwise than here."""

    shares_windows: ClassVar[bool] = True  # workers may each take a slice of a window

    @property
    def multiple(self) -> int:
        """What lengths of windows are multiples of, where every base has an answer."""
        return 1

    @property
    def resolution(self) -> int:
        """How many bases share an answer, where every base has one."""
        return 1

    @property
    def receptive_field(self) -> int | None:
        """Bases that one output can see; None where that is the whole window."""
        return None
