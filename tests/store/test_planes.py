"""Units of the planes: however a file is cut, stopped and gone on with, the store is the same."""

import gzip

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import SourceError
from distgen.genome import Interval
from distgen.store import planes
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify
from distgen.store.work import Work
from tests.ingest.test_twobit import write as twobit_file
from tests.store.test_build import tree

UNIT = 1 << 19  # the smallest: one chunk of a 1-bit plane
RECIPE = 'format = 1\n[assembly]\nname = "a"\nfasta = "{}"\n[contigs]\nexclude = ["no*"]\n'


def genome(seed):
    """Contigs around the ends of units: some end at one, some cross several, some are left out."""
    rng = np.random.default_rng(seed)
    lengths = [UNIT - 64, 64, UNIT - 1, 1, UNIT + 63, 3, 2 * UNIT + 17, 64 * 100, UNIT - 64 * 100 - 128, 5]
    contigs = {}
    for number, length in enumerate(lengths):
        letters = np.frombuffer(b"ACGTacgtNn", np.uint8)[rng.integers(0, 10, length)].copy()
        letters[length // 3 : length // 2] = ord("N")
        contigs[f"{'no' if number in (3, 9) else 'c'}{number}"] = letters.tobytes().decode()
    return contigs


@pytest.fixture(params=["plain.fa", "unwrapped.fa", "packed.fa.gz"])
def recipe(request, tmp_path, monkeypatch):
    """A recipe whose planes have seven units; the file is wrapped, or not, or gzip."""
    monkeypatch.setattr(planes, "UNIT", UNIT)
    width = 1 << 30 if request.param == "unwrapped.fa" else 61
    text = ""
    for name, letters in genome(0).items():
        text += f">{name}\n" + "".join(f"{letters[i : i + width]}\n" for i in range(0, len(letters), width))
    content = text.encode()
    (tmp_path / request.param).write_bytes(gzip.compress(content, 1) if request.param.endswith("gz") else content)
    (tmp_path / "a.toml").write_text(RECIPE.format(request.param))
    return read(tmp_path / "a.toml", Recipe)


@pytest.fixture
def undisturbed(recipe, tmp_path):
    build(recipe, tmp_path / "undisturbed.zarr")
    return tree(tmp_path / "undisturbed.zarr")


def test_the_store_holds_every_base_over_all_units(recipe, tmp_path):
    build(recipe, tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    assert store.planes["sequence"].layout.shards == 7
    assert not verify(store).damage
    wanted = {name: letters for name, letters in genome(0).items() if not name.startswith("no")}
    assert store.contigs.names == tuple(wanted)
    for name, letters in wanted.items():
        assert store.sequence(Interval(name, 0, len(letters))) == letters.upper()
        assert (
            store.letters[name] == {"N": letters.upper().count("N")}
            if "N" in letters.upper()
            else name not in store.letters
        )


@pytest.mark.parametrize("parallel", [2, 5])
def test_tasks_in_any_order_give_the_same_bytes(recipe, tmp_path, undisturbed, parallel):
    def backwards(tasks, progress):
        return [task(progress) for task in reversed(tasks)][::-1]

    build(recipe, tmp_path / "a.zarr", execute=backwards, parallel=parallel)
    assert tree(tmp_path / "a.zarr") == undisturbed


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_build_that_is_stopped_after_any_unit_goes_on_there(recipe, tmp_path, undisturbed, monkeypatch, parallel):
    finish, written = Work.finish, []

    def stop_after_one(work, unit, folder, receipt):
        if len(written) % 2:
            written.append(None)
            raise KeyboardInterrupt
        finish(work, unit, folder, receipt)
        written.append(unit)

    monkeypatch.setattr(Work, "finish", stop_after_one)
    for _ in range(20):
        try:
            build(recipe, tmp_path / "a.zarr", parallel=parallel)
        except KeyboardInterrupt:
            assert not (tmp_path / "a.zarr").exists()
        else:
            break
    units = [unit for unit in written if unit]
    assert len(units) == len(set(units)) == 7
    assert tree(tmp_path / "a.zarr") == undisturbed
    assert not list(tmp_path.glob(".*"))


def test_a_least_length_needs_no_second_reader(recipe, tmp_path):
    path = recipe.path
    path.write_text(path.read_text() + f"min_length = {UNIT}\n")
    build(read(path, Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    assert store.contigs.names == ("c4", "c6")
    assert store.sequence(Interval("c6", UNIT, UNIT + 99)) == genome(0)["c6"][UNIT : UNIT + 99].upper()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nACGT\n>b\n\n>c\nA\n", 'a.fa:3: contig "b" has no sequence'),
        (b">a\nACGT\n>b", 'a.fa:3: contig "b" has no sequence'),
        (b">a\nA\n>b\nA\n>a\nC\n", 'a.fa:5: contig "a" comes a second time .first in line 1'),
        (b">a\nACGT\nAC1T\n", "a.fa:3: '1' in contig \"a\""),
        (b">a\n" + b"ACGT\n" * 99 + b"A!\n" + b"ACGT\n" * 99, "a.fa:101: '!' in contig \"a\""),
        (b">a\nMEEPQSDPSV\n", "a.fa:2: 'E' in contig \"a\""),
    ],
)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_what_is_wrong_is_named_with_line_and_contig(tmp_path, monkeypatch, content, message, block):
    (tmp_path / "a.fa").write_bytes(content)
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n')
    read_fasta = planes.read_fasta
    monkeypatch.setattr(planes, "read_fasta", lambda path, start: read_fasta(path, start, block))
    with pytest.raises(SourceError, match=message):
        build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")


def test_letters_that_become_n_are_counted(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nACGTRRy-\n>b\nACGT\n>c\nACGUu\n")
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n')
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr").letters == {"a": {"R": 2, "Y": 1, "-": 1}, "c": {"U": 2}}


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_2bit_file_gives_the_planes_of_its_fasta(tmp_path, monkeypatch, parallel):
    monkeypatch.setattr(planes, "UNIT", UNIT)
    contigs = genome(1)
    (tmp_path / "a.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))
    twobit_file(tmp_path / "a.2bit", contigs)
    stores = []
    for source in ("a.fa", "a.2bit"):
        (tmp_path / "a.toml").write_text(RECIPE.format(source))
        build(read(tmp_path / "a.toml", Recipe), tmp_path / f"{source}.zarr", parallel=parallel)
        stores.append(open_store(tmp_path / f"{source}.zarr"))
    fasta, twobit = stores
    assert fasta.manifest["arrays"] == twobit.manifest["arrays"]
    assert not verify(twobit).damage
