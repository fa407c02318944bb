"""Builds that are killed, that run out of disk or meet another; stores that are damaged: nothing lost, nothing half-published."""

import errno
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError, StoreError
from distgen.store import format, planes
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify
from distgen.store.work import Work
from tests.store.test_build import tree

UNIT = 1 << 19
BUILD = f"""
import sys
import time
from pathlib import Path
from distgen.store import planes
planes.UNIT = {UNIT}
from distgen.config import Recipe, read
from distgen.store.build import build
print("ready", flush=True)
build(read(sys.argv[1], Recipe), Path(sys.argv[2]))
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A genome of some twenty units with two tracks."""
    monkeypatch.setattr(planes, "UNIT", UNIT)
    rng = np.random.default_rng(0)
    with (tmp_path / "a.fa").open("wb") as file:
        for number in range(5):
            letters = np.frombuffer(b"ACGTacgtN", np.uint8)[rng.integers(0, 9, 2_000_000 + number)]
            file.write(b">chr%d\n%s\n" % (number, letters.tobytes()))
    starts = np.sort(rng.integers(0, 1_900_000, 3000))
    (tmp_path / "a.bed").write_text("".join(f"chr{i % 5}\t{s}\t{s + 1000}\n" for i, s in enumerate(starts)))
    (tmp_path / "a.gtf").write_text(
        "".join(f'chr{i % 5}\tx\tCDS\t{s + 1}\t{s + 90}\t.\t+\t0\tgene_id "g";\n' for i, s in enumerate(starts))
    )
    (tmp_path / "a.toml").write_text(
        'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
        '[[track]]\nname = "peaks"\nsource = "a.bed"\n[[track]]\nname = "genes"\nsource = "a.gtf"\nclasses = ["cds+"]\n'
    )
    return read(tmp_path / "a.toml", Recipe)


def _build_with_kills(folder, kills, seed):
    """Build again and again, killing so many builders at random moments; returns how often a build came to its end."""
    draw, ends = random.Random(seed), 0
    while kills:
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, "a.toml", "a.zarr"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.readline()
        try:
            _, errors = process.communicate(timeout=draw.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]))
            process.communicate()
            kills -= 1
        else:
            ends += 1
            assert process.returncode == 0, errors.decode()
            assert not verify(open_store(folder / "a.zarr")).damage
            shutil.rmtree(folder / "a.zarr")
        if (folder / "a.zarr").exists():  # killed after publishing
            assert not verify(open_store(folder / "a.zarr")).damage
            ends += 1
            shutil.rmtree(folder / "a.zarr")
    return ends


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_build_that_is_killed_goes_on_and_ends_in_the_same_bytes(recipe, tmp_path, kills):
    build(recipe, tmp_path / "undisturbed.zarr")
    _build_with_kills(tmp_path, kills, seed=kills)
    build(recipe, tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "undisturbed.zarr")
    assert not list(tmp_path.glob(".*"))


def test_what_a_builder_left_that_died_after_publishing_goes_away(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Work, "remove", lambda work: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(recipe, tmp_path / "a.zarr")
    monkeypatch.undo()
    monkeypatch.setattr(planes, "UNIT", UNIT)
    assert list(tmp_path.glob(".*"))
    assert build(recipe, tmp_path / "a.zarr") == 0
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_publishes_nothing_and_the_same_command_goes_on(recipe, tmp_path, monkeypatch):
    build(recipe, tmp_path / "undisturbed.zarr")
    add, room = format.ShardWriter._add, [0]

    def fill(writer, chunk):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(writer, chunk)

    monkeypatch.setattr(format.ShardWriter, "_add", fill)
    failures = []
    while not (tmp_path / "a.zarr").exists():
        room[0] = 200
        try:
            build(recipe, tmp_path / "a.zarr")
        except StoreError as error:
            failures.append(str(error))
    assert len(failures) > 1
    assert all("the build stopped (No space left on device); nothing was published" in line for line in failures)
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "undisturbed.zarr")


def test_a_second_builder_is_refused_until_the_first_is_dead(recipe, tmp_path):
    hold = "import sys, time; from pathlib import Path; from distgen.store.work import Work\n"
    hold += "with Work(Path(sys.argv[1])).locked():\n    print('held', flush=True)\n    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "a.zarr")], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(ConfigError, match=f"another build of this store is running .process {process.pid} on "):
        build(recipe, tmp_path / "a.zarr")
    process.kill()
    process.communicate()
    assert build(recipe, tmp_path / "a.zarr") == 10_000_010


def test_builders_at_the_same_time_leave_one_whole_store(recipe, tmp_path):
    command = [sys.executable, "-c", BUILD, "a.toml", "a.zarr"]
    builders = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)
    ]
    errors = [builder.communicate()[1].decode() for builder in builders]
    assert any(builder.returncode == 0 for builder in builders)
    for builder, error in zip(builders, errors, strict=True):
        assert builder.returncode == 0 or "another build of this store is running" in error
    assert not verify(open_store(tmp_path / "a.zarr")).damage
    assert not list(tmp_path.glob(".*"))


def _damage(draw, path):
    """One random fault in one file: a bit, a missing end, more at the end, zeros, another order, or no file at all."""
    content = path.read_bytes()
    at = draw.randrange(len(content))
    kind = draw.choice(["flip", "flip", "flip", "cut", "grow", "zero", "swap", "delete"])
    if kind == "delete":
        path.unlink()
        return content
    changed = {
        "flip": content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :],
        "cut": content[:at],
        "grow": content + b"\0",
        "zero": content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :],
        "swap": content[at:] + content[:at],
    }[kind]
    path.write_bytes(changed)
    return content


def _everything(store):
    """All that a store serves."""
    values = [array.read() for array in store.planes.values()] + [track.decoded for track in store.tracks.values()]
    return [*values, store.contigs.lengths, store.contigs.offsets, list(store.contigs.names), store.regions("train")]


@pytest.mark.parametrize("faults", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_fault_in_a_store_is_found_and_never_served(small, faults):
    draw, truth = random.Random(faults), _everything(small)
    files = sorted(path for path in small.path.rglob("*") if path.is_file())
    found = 0
    for _ in range(faults):
        path = draw.choice(files)
        content = _damage(draw, path)
        if path.exists() and path.read_bytes() == content:
            continue  # zeros upon zeros
        try:
            assert verify(open_store(small.path)).damage, path
        except (StoreError, ConfigError):
            assert path.name == "manifest"
        found += 1
        try:
            served = _everything(open_store(small.path))
        except (StoreError, ConfigError):
            pass
        else:
            assert all(np.array_equal(one, other) for one, other in zip(served, truth, strict=True)), path
        path.write_bytes(content)
    assert found > 0.8 * faults
    assert not verify(open_store(small.path)).damage


SLOW = """
import sys, time
from distgen import cli
from distgen.store import build

def settle(*places):
    print("settling", flush=True)
    time.sleep(3)

build.settle = settle
sys.argv = ["distgen", "build", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("stores", [1, 2])
def test_after_an_interrupt_nothing_is_published_and_nobody_waits(small_recipe, tmp_path, stores):
    (tmp_path / "recipes").mkdir()
    for name in ("a", "b")[:stores]:
        text = small_recipe.read_text().replace('"small"', f'"{name}"').replace('"small.', '"../small.')
        (tmp_path / f"recipes/{name}.toml").write_text(text)
    recipes = sorted((tmp_path / "recipes").iterdir())
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *recipes],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("settling")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - began < 2.5
    assert said == "interrupted: nothing more is published; the same command goes on from here\n"
    assert not list(tmp_path.glob("store/*.zarr"))
