"""Every file of tests/data/bad is wrong in one way; expected.toml says what distgen has to say of it."""

import json
import re
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import DistgenError
from distgen.genome import Contigs
from distgen.ingest.tables import join, read_matrix, read_sequences
from distgen.ingest.twobit import TwoBit
from distgen.ingest.variants import read_variants
from distgen.store.build import build

BAD = Path(__file__).parent.parent / "data" / "bad"
EXPECTED = tomllib.loads((BAD / "expected.toml").read_text())
CASES = [(kind, name) for kind, files in EXPECTED.items() for name in files]
CONTIGS = Contigs(("chr1", "chr2"), np.array([100, 50]), np.array([0, 128]), ("", ""))
DEFAULTS = {"annotation": {"classes": ["cds"]}, "sequences": {"kind": "binary"}}
LARGEST = 4096  # bytes of a file


def recipe(path: Path, kind: str, options: dict) -> str:
    """A recipe that uses the file and is otherwise right."""
    fasta, more = BAD / "good.fa", ""
    if kind == "fasta":
        fasta = path
    elif kind == "aliases":
        more = f'[contigs]\naliases = "{path}"\n'
    elif kind == "split":
        more = f'[split]\ntest = ["{path}"]\n'
    else:
        groups = {"source": str(BAD / "good.fragments.tsv"), "groups": str(path), "kind": "alignments"}
        keys = {"name": "t"} | (groups if kind == "groups" else {"source": str(path), "kind": kind}) | options
        more = "[[track]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    return f'format = 1\n[assembly]\nname = "a"\nfasta = "{fasta}"\n' + more


def use(path: Path, kind: str, options: dict, tmp_path: Path) -> None:
    """Build a store with the file, or read it where no recipe takes it."""
    match kind:
        case "twobit":
            file = TwoBit(path)
            for row, length in enumerate(file.lengths.tolist()):
                file.planes(row, 0, length)
        case "sequences":
            list(read_sequences({"train": path}, **options))
        case "matrix":
            found = read_matrix(path)
            join(found.ids, options.get("ids", found.ids), str(path))
            list(found.blocks())
        case "variants":
            reference = {"reference": lambda row, positions: np.zeros(len(positions), np.uint8)}
            list(read_variants(path, CONTIGS, **reference, **options))
        case _:
            folder = tmp_path / "recipes"
            folder.mkdir()
            text = path.read_bytes() if kind == "recipes" else recipe(path, kind, options).encode()
            (folder / "a.toml").write_bytes(text)
            for good in BAD.glob("good.*"):
                shutil.copy(good, tmp_path)
            build(read(folder / "a.toml", Recipe), tmp_path / "a.zarr")


def complaint(kind: str, name: str, tmp_path: Path) -> str:
    """What distgen says of a file, with its name alone for its path."""
    options = DEFAULTS.get(kind, {}) | {key: value for key, value in EXPECTED[kind][name].items() if key != "says"}
    with pytest.raises(DistgenError) as caught:
        use(BAD / kind / name, kind, options, tmp_path)
    assert caught.value.exit_status == 2
    said = str(caught.value)
    for folder in (BAD / kind, BAD, tmp_path / "recipes", tmp_path):
        said = said.replace(f"{folder}/", "")
    return said


@pytest.mark.parametrize(("kind", "name"), CASES, ids=map("/".join, CASES))
def test_a_bad_file_is_refused_with_its_own_sentence_and_nothing_is_published(kind, name, tmp_path):
    # An ellipsis stands for what a library says, which changes with its version.
    sentence = ".*".join(map(re.escape, EXPECTED[kind][name]["says"].split("…")))
    assert re.fullmatch(sentence, complaint(kind, name, tmp_path))
    assert not (tmp_path / "a.zarr").exists()


def test_the_good_files_beside_them_build(tmp_path):
    text = recipe(BAD / "good.tsv", "groups", {})
    (tmp_path / "a.toml").write_text(text)
    assert build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr") == 150


def test_every_file_has_a_sentence_of_its_own_and_is_small():
    files = list(BAD.glob("*/*"))
    assert {(path.parent.name, path.name) for path in files} == set(CASES)
    assert max(path.stat().st_size for path in files) < LARGEST
    # The same rule may speak of two formats, but of one format it says each thing once.
    said = Counter(
        (kind, Path(name).suffix, re.sub(r"^[\w. ]+(:\d+)?: ", "", EXPECTED[kind][name]["says"]))
        for kind, name in CASES
    )
    assert not [sentence for sentence, count in said.items() if count > 1]
