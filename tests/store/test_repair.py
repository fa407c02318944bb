"""What is damaged is built again, alone; a store can be compared with its sources."""

import gzip
import json

import pytest

from distgen.config import Recipe, digest, read
from distgen.errors import StoreError
from distgen.store import assembly, format, matrices, planes
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.repair import compare, repair
from distgen.store.sources import examine
from distgen.store.verify import verify
from tests.store.test_build import tree
from tests.store.test_planes import RECIPE, UNIT, genome
from tests.store.test_rows import BED, MATRIX, TABLE
from tests.store.test_sequences import FILES, HEAD, THREE
from tests.store.test_variants import RECORDS, vcf


@pytest.fixture(params=["a.fa", "a.fa.gz"])
def built(request, tmp_path, monkeypatch):
    """A store of seven units, its recipe, and its bytes."""
    monkeypatch.setattr(planes, "UNIT", UNIT)
    content = "".join(f">{name}\n{letters}\n" for name, letters in genome(2).items()).encode()
    (tmp_path / request.param).write_bytes(gzip.compress(content, 1) if request.param.endswith("gz") else content)
    (tmp_path / "a.bed").write_text("c0\t5\t9\nc6\t100\t900000\n")
    track = '[[track]]\nname = "t"\nsource = "a.bed"\n'
    (tmp_path / "a.toml").write_text(RECIPE.format(request.param) + track)
    recipe = read(tmp_path / "a.toml", Recipe)
    build(recipe, tmp_path / "a.zarr")
    return recipe, tmp_path / "a.zarr", tree(tmp_path / "a.zarr")


def test_every_file_that_is_missing_or_damaged_comes_back_as_it_was(built):
    recipe, out, whole = built
    for name in whole:
        if name == "manifest":
            continue
        path = out / name
        content = path.read_bytes()
        if len(name) % 2:
            path.unlink()
        else:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = repair(recipe, out)
        assert len(found.damage) == 1, name
        assert tree(out) == whole
        assert not list(out.parent.glob(".*"))


def test_only_the_damaged_unit_is_built(built, monkeypatch):
    recipe, out, whole = built
    (out / "sequence/c/3").unlink()
    written = []
    monkeypatch.setattr(planes.Work, "finish", _spy(planes.Work.finish, written))
    repair(recipe, out)
    assert [unit.rsplit("-")[-1] for unit in written] == ["3"]
    assert tree(out) == whole


@pytest.mark.parametrize("made", ["rows", "sequences"])
def test_tables_of_rows_and_of_sequences_come_back_too(made, request):
    """Each file alone, then all at once: what is built from the planes waits for them."""
    recipe, out = request.getfixturevalue(f"with_{made}")
    build(recipe, out)
    whole = tree(out)
    assert compare(recipe, out) == []
    names = [name for name in whole if name != "manifest"]
    for damaged in [*([name] for name in names), [name for name in names if "/c/" in name]]:
        for name in damaged:
            content = (out / name).read_bytes()
            (out / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert len(repair(recipe, out).damage) == len(damaged), damaged
        assert tree(out) == whole


@pytest.fixture
def with_rows(small_recipe):
    folder = small_recipe.parent
    (folder / "expr.tsv").write_text(MATRIX)
    (folder / "peaks.bed").write_text(BED)
    (folder / "a.vcf").write_text(vcf(RECORDS))
    variants = '[[variants]]\nname = "people"\nsource = "a.vcf"\nsamples = ["A"]\n'
    small_recipe.write_text(small_recipe.read_text() + TABLE + variants)
    return read(small_recipe, Recipe), folder / "rows.zarr"


@pytest.fixture
def with_sequences(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "t.toml").write_text(HEAD + THREE + '[splits.other]\nvalid = ["0"]\n')
    return read(tmp_path / "t.toml", Recipe), tmp_path / "t.zarr"


def test_a_matrix_that_is_whole_and_wrong_is_told_by_its_sources(with_rows):
    recipe, out = with_rows
    source = out.parent / "expr.tsv"
    source.write_text(MATRIX.replace("2.5", "7"))
    build(recipe, out)
    source.write_text(MATRIX)
    # The store as a builder with a mistake would have published it.
    store, right = open_store(out), examine(recipe)
    (old,) = [inputs for inputs, table in store.manifest["inputs"]["tables"].items() if "conditions" in table]
    (new,) = [table.inputs for table in matrices.plan(recipe, right.ids, store.contigs)]
    manifest = json.loads(json.dumps(store.manifest).replace(old, new)) | {"provenance": right.provenance}
    del manifest["checksum"]
    format.write_json(out / "manifest", manifest | {"checksum": digest(manifest)})
    key = manifest["matrices"]["expr"]["key"]
    assert compare(recipe, out) == [f"{out}/{key}/values is not what its sources say"]


def _spy(finish, written):
    def spied(work, unit, folder, receipt):
        written.append(unit)
        finish(work, unit, folder, receipt)

    return spied


def test_a_source_that_has_changed_mends_nothing(built):
    recipe, out, _ = built
    (out / "sequence/c/3").unlink()
    source = out.parent / recipe.assembly.fasta
    with source.open("ab") as file:
        file.write(gzip.compress(b"A") if source.suffix == ".gz" else b"A")
    with pytest.raises(StoreError, match="a source has changed since this store was built"):
        repair(recipe, out)


def test_a_damaged_manifest_is_not_mended_by_guessing(built):
    recipe, out, _ = built
    path = out / "manifest"
    path.write_bytes(path.read_bytes().replace(b'"generation": 1', b'"generation": 2'))
    with pytest.raises(StoreError, match="manifest is damaged"):
        repair(recipe, out)


def test_a_store_that_is_whole_and_wrong_is_told_by_its_sources(built):
    recipe, out, _ = built
    assert compare(recipe, out) == []
    source, provenance = out.parent / recipe.assembly.fasta, open_store(out).manifest["provenance"]
    good = source.read_bytes()
    text = gzip.decompress(good) if source.suffix == ".gz" else good
    at = text.index(b"A", text.index(b">c4\n"))
    text = text[:at] + b"T" + text[at + 1 :]
    source.write_bytes(gzip.compress(text) if source.suffix == ".gz" else text)
    build(recipe, out)
    source.write_bytes(good)
    # The store as a builder with a mistake would have published it.
    manifest = format.read_json(out / "manifest") | {"provenance": provenance}
    manifest["inputs"]["planes"] = assembly.inputs(recipe, examine(recipe).ids)
    del manifest["checksum"]
    format.write_json(out / "manifest", manifest | {"checksum": digest(manifest)})
    assert not verify(open_store(out)).damage
    assert compare(recipe, out) == [f"{out}/sequence is not what its sources say"]


def test_a_recipe_with_other_words_or_another_track_mends_what_it_still_gives(built):
    recipe, out, _ = built
    text = recipe.path.read_text()
    for more in ("# a comment\n", '[[track]]\nname = "u"\nsource = "a.bed"\nbin_bp = 100\n'):
        (out / "sequence/c/3").unlink()
        recipe.path.write_text(text + more)
        changed = read(recipe.path, Recipe)
        with pytest.raises(StoreError, match="sequence/c/3 is damaged .* run distgen repair RECIPE"):
            build(changed, out)  # publishes nothing that stands on it
        assert len(repair(changed, out).damage) == 1
        build(changed, out)
        assert not verify(open_store(out)).damage
    assert compare(changed, out) == []
    with pytest.raises(StoreError, match="the recipe has changed since this store was built"):
        compare(recipe.model_copy(update={"track": ()}), out)


def test_two_tracks_of_the_same_are_one_array_that_is_mended(built):
    recipe, out, _ = built
    recipe.path.write_text(recipe.path.read_text() + '[[track]]\nname = "again"\nsource = "a.bed"\n')
    changed = read(recipe.path, Recipe)
    for force in (False, True):
        build(changed, out, force=force)
        tracks = open_store(out).manifest["tracks"]
        assert tracks["t"]["arrays"] == tracks["again"]["arrays"]
        shard = next((out / "tracks").glob("t.*/values/c/0/0"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        assert len(repair(changed, out).damage) == 1
        assert compare(changed, out) == []
