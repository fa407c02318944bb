"""What every test of the ops shares: the implementations, on the device there is.

This folder stands alone (`pytest --confcutdir=tests/kernels tests/kernels`): a machine with torch, Triton and numba runs it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from distgen import kernels
from distgen.kernels import library, reference

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run on the CPU
MODULES = {schema.partition("(")[0]: module for module, schemas in library._SCHEMAS.items() for schema in schemas}

settings.register_profile(
    "kernels", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("interpreted", parent=settings.get_profile("kernels"), max_examples=8)
settings.load_profile("kernels")


class Implementation:
    """One implementation of the ops: takes and gives tensors on the CPU, wherever it works."""

    def __init__(self, name: str):
        self.name = name
        self.device = "cuda" if CUDA and name == "triton_gpu" else "cpu"

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op not in MODULES:
            raise AttributeError(op)
        module = (
            importlib.import_module(f"distgen.kernels.{self.name}.{MODULES[op]}")
            if self.name != "reference"
            else reference
        )

        def run(*arguments: Any, **named: Any) -> Any:
            moved = [self._move(a, self.device) for a in arguments]
            found = getattr(module, op)(*moved, **{key: self._move(a, self.device) for key, a in named.items()})
            kernels.check(self.device)
            return tuple(f.cpu() for f in found) if isinstance(found, tuple) else found.cpu()

        return run

    @staticmethod
    def _move(argument: Any, device: str) -> Any:
        return argument.to(device) if isinstance(argument, torch.Tensor) else argument


@pytest.fixture(params=["reference", "numba_cpu", "triton_gpu"])
def implementation(request: pytest.FixtureRequest) -> Any:
    settings.load_profile("interpreted" if request.param == "triton_gpu" and not CUDA else "kernels")
    yield Implementation(request.param)
    settings.load_profile("kernels")
