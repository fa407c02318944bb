"""Units of the planes: however a file is cut, stopped and gone on with, the store is the same."""

import gzip
import zlib
from pathlib import Path

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


def bgzip(content):
    """As bgzip writes it: blocks of up to 64 KiB, and an empty one at the end."""
    written = b""
    for first in [*range(0, len(content), 65_000), len(content)]:
        piece = content[first : first + 65_000] if first < len(content) else b""
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = deflate.compress(piece) + deflate.flush()
        head = bytes.fromhex("1f8b08040000000000ff060042430200") + (len(packed) + 25).to_bytes(2, "little")
        written += head + packed + zlib.crc32(piece).to_bytes(4, "little") + len(piece).to_bytes(4, "little")
    return written


@pytest.fixture(params=["plain.fa", "unwrapped.fa", "packed.fa.gz", "packed.fa.bgz"])
def recipe(request, tmp_path, monkeypatch):
    """A recipe whose planes have seven units; the file is wrapped, or not, or gzip."""
    monkeypatch.setattr(planes, "UNIT", UNIT)
    width = 1 << 30 if request.param == "unwrapped.fa" else 61
    text = ""
    for name, letters in genome(0).items():
        text += f">{name}\n" + "".join(f"{letters[i : i + width]}\n" for i in range(0, len(letters), width))
    content = text.encode()
    pack = {".gz": gzip.compress, ".bgz": bgzip}.get(Path(request.param).suffix, bytes)
    (tmp_path / request.param).write_bytes(pack(content))
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


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_contig_that_is_left_out_at_the_end_of_a_unit_is_known_of(tmp_path, monkeypatch, parallel):
    monkeypatch.setattr(planes, "UNIT", UNIT)
    source, toml = tmp_path / "a.fa", tmp_path / "a.toml"
    source.write_text(f">c0\n{'A' * UNIT}\n>no1\nACGT\n>c2\n{'C' * UNIT}\n")
    toml.write_text(RECIPE.format("a.fa"))
    build(read(toml, Recipe), tmp_path / "a.zarr", parallel=parallel)
    assert open_store(tmp_path / "a.zarr").contigs.names == ("c0", "c2")
    with source.open("a") as file:
        file.write(">no1\nA\n")
    with pytest.raises(SourceError, match='contig "no1" comes a second time .first in line 3'):
        build(read(toml, Recipe), tmp_path / "a.zarr", parallel=parallel)


@pytest.mark.parametrize("rule", ["", "min_length = 1\n"])
def test_a_contig_without_sequence_may_be_left_out(tmp_path, rule):
    (tmp_path / "a.fa").write_text(">no0\n>a\nACGT\n>b\n\n>c\nA\n")
    (tmp_path / "a.toml").write_text(RECIPE.format("a.fa") + rule)
    if rule:
        build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
        assert open_store(tmp_path / "a.zarr").contigs.names == ("a", "c")
    else:
        with pytest.raises(SourceError, match='a.fa:4: contig "b" has no sequence'):
            build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")


def test_contigs_of_an_alignment_or_less_are_packed_together_and_counted_each(tmp_path, monkeypatch):
    """As of a draft assembly: 5,000 contigs in a few packings."""
    rng, calls = np.random.default_rng(2), []
    reference = planes.packing.reference
    monkeypatch.setattr(planes.packing, "reference", lambda letters: calls.append(len(letters)) or reference(letters))
    contigs = {f"c{i}": "".join(rng.choice(list("ACGTNRu"), rng.integers(1, 200))) for i in range(5_000)}
    (tmp_path / "a.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))
    (tmp_path / "a.toml").write_text(RECIPE.format("a.fa").partition("[contigs]")[0])
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    assert len(calls) < 5
    assert store.letters == {
        name: {letter: letters.upper().count(letter) for letter in "NRU" if letter in letters.upper()}
        for name, letters in contigs.items()
        if set("NRu") & set(letters)
    }
    assert all(
        store.sequence(Interval(name, 0, len(letters))) == letters.translate({ord("u"): "T", ord("R"): "N"})
        for name, letters in list(contigs.items())[::50]
    )


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
