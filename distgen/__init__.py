"""Train deep-learning models on whole genomes. Names are imported on first use: no torch, no Ray until then."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["GenomeLoader", "MixtureLoader", "Store", "kernels", "load_model", "open_store"]

if TYPE_CHECKING:
    from distgen import kernels
    from distgen.loader.loader import GenomeLoader
    from distgen.loader.mixture import MixtureLoader
    from distgen.store.reader import Store, open_store
    from distgen.train.weights import load_model

_HOME = {
    "GenomeLoader": "distgen.loader.loader",
    "MixtureLoader": "distgen.loader.mixture",
    "Store": "distgen.store.reader",
    "load_model": "distgen.train.weights",
    "open_store": "distgen.store.reader",
}


def __getattr__(name: str) -> Any:
    if name == "kernels":
        return importlib.import_module("distgen.kernels")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module distgen has no attribute {name!r}")
