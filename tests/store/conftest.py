"""Tiny stores and collections of them."""

from pathlib import Path

import pytest

from distgen.config import Collection, Recipe, read
from distgen.store.build import build
from distgen.store.index import build_index


def tiny_store(folder: Path, name: str, letters: str, *, track: bool = False) -> Path:
    """Build one store of two contigs: the letters, and ACGT."""
    (folder / f"{name}.fa").write_text(f">{name}-1\n{letters}\n>{name}-2\nACGT\n")
    recipe = f'format = 1\n[assembly]\nname = "{name}"\nfasta = "{name}.fa"\n'
    if track:
        (folder / f"{name}.bed").write_text(f"{name}-1\t1\t3\n")
        recipe += f'[[track]]\nname = "peaks"\nsource = "{name}.bed"\n'
    (folder / f"{name}.toml").write_text(recipe)
    build(read(folder / f"{name}.toml", Recipe), folder / "stores" / f"{name}.zarr")
    return folder / "stores" / f"{name}.zarr"


def index_of(folder: Path, text: str = 'stores = "stores/*.zarr"') -> Path:
    """Build the index of a collection called `all`."""
    (folder / "all.toml").write_text(f'format = 1\n[collection]\nname = "all"\n{text}\n')
    return build_index(read(folder / "all.toml", Collection))


@pytest.fixture
def stores(tmp_path):
    """Three stores of 104, 204 and 304 bases."""
    (tmp_path / "stores").mkdir()
    for number in (1, 2, 3):
        tiny_store(tmp_path, f"g{number}", "GATT" * 25 * number)
    return tmp_path
