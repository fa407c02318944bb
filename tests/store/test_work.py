"""What a build tells of its progress."""

import gzip

import pytest

from distgen.config import Recipe, read
from distgen.ingest.open import consumed
from distgen.store.build import build
from distgen.store.work import Part, silent


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress])
def test_all_bytes_of_the_sources_are_told_whatever_their_compression(small_recipe, tmp_path, packed):
    for name in ("small.fa", "small.gtf"):
        (tmp_path / name).write_bytes(packed((tmp_path / name).read_bytes()))
    told, expected = [], []

    def progress(amount, read=0):
        told.append((amount, read))

    build(read(small_recipe, Recipe), tmp_path / "a.zarr", progress, expect=expected.append)
    sizes = [(tmp_path / name).stat().st_size for name in ("small.fa", "small.gtf")]
    assert expected == [sum(sizes), sum(sizes)]
    assert sum(read for _, read in told) == sum(sizes)
    assert sum(amount for amount, _ in told) > 1764  # bases of the planes, and of the track
    small_recipe.write_text(small_recipe.read_text().replace('["cds+", "cds-"]', '["cds+", "exon"]'))
    build(read(small_recipe, Recipe), tmp_path / "a.zarr", silent, expect=expected.append)
    assert expected[2:] == [sizes[1]]


def test_a_part_is_told_once_however_often_its_source_is_read(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    told = []
    part = Part(lambda amount, read=0: told.append(read), [tmp_path / "a"], passes=2)
    with part.reading():
        consumed(50)
        consumed(150)
        consumed(500)
    consumed(1)
    part.reach(0.3)
    assert told == [25, 75]
    assert part.share == 1
