"""What a dry run says, beside what is then built."""

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError, SourceError
from distgen.ingest import remote
from distgen.store.build import build
from distgen.store.estimate import estimate
from tests.conftest import GTF, LETTERS

PEAK = """
import sys
from pathlib import Path
from distgen.cli import run
status = run(sys.argv[1:])
print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def everything(tmp_path):
    """A recipe with every kind of part, of sources that hold drawn values, which hardly compress."""
    rng = np.random.default_rng(0)
    letters = "".join(np.array(list("ACGTacgtN"))[rng.integers(0, 9, 3_000_000)])
    (tmp_path / "a.fa").write_text(f">c\n{letters}\n>d\nACGT\n")
    starts = range(0, 2_900_000, 3)
    (tmp_path / "s.bedgraph").write_text("".join(f"c\t{s}\t{s + 3}\t{rng.random():.5f}\n" for s in starts))
    (tmp_path / "p.bed").write_text("".join(f"c\t{s}\t{s + 9}\tr{s}\n" for s in starts[:30000]))
    (tmp_path / "g.gtf").write_text(GTF.replace("chr1", "c").replace("chr2", "d").split("\n")[0] + "\n")
    rows = ("\t".join([f"r{s}", *(f"{x:.4f}" for x in rng.random(9))]) for s in starts[:30000])
    (tmp_path / "m.tsv").write_text("\n".join(["id\t" + "\t".join("abcdefghi"), *rows]) + "\n")
    sites = [i for i in range(2_000_000) if letters[i].upper() == "A"][::40]
    calls = np.array(["0|0", "0|1", "1|0", "1|1"])[rng.integers(0, 4, (len(sites), 2))]
    head = '##fileformat=VCFv4.2\n##contig=<ID=c>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n'
    head += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tx\ty\n"
    lines = (f"c\t{s + 1}\t.\tA\tC\t.\t.\t.\tGT\t{x}\t{y}\n" for s, (x, y) in zip(sites, calls, strict=True))
    (tmp_path / "v.vcf").write_text(head + "".join(lines))
    (tmp_path / "a.toml").write_text(
        'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
        '[[track]]\nname = "s"\nsource = "s.bedgraph"\n[[track]]\nname = "p"\nsource = "p.bed"\nbin_bp = 4\n'
        '[[matrix]]\nname = "m"\nmatrix = "m.tsv"\nregions = "p.bed"\n'
        '[[variants]]\nname = "v"\nsource = "v.vcf"\nsamples = ["x", "y"]\n'
    )
    return tmp_path


def test_every_part_is_at_most_as_large_as_said_and_the_raw_ones_nearly(everything):
    recipe = read(everything / "a.toml", Recipe)
    found = estimate(recipe)
    build(recipe, everything / "a.zarr")
    sizes = {part.name: part.bytes for part in found.parts}
    assert list(sizes) == ["planes", "track s", "track p", "matrix m", "variants v"]
    assert found.bases == 3_000_004
    planes = sum(stored(everything / "a.zarr" / plane) for plane in ("sequence", "ambiguous", "softmask"))
    assert planes <= sizes["planes"] <= planes + 300_000
    for name in ("tracks/s", "tracks/p", "matrices/m", "variants/v"):
        kind, _, one = name.partition("/")
        real = stored(next((everything / "a.zarr" / kind).glob(f"{one}.*")))
        assert real <= sizes[{"tracks": "track", "matrices": "matrix"}.get(kind, kind) + f" {one}"]
    values = stored(next((everything / "a.zarr/matrices").glob("m.*")) / "values")
    assert values <= sizes["matrix m"] <= 2.5 * values
    assert stored(everything / "a.zarr") <= found.bytes


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress])
def test_the_bases_of_small_sources_are_exact(small_recipe, tmp_path, packed):
    (tmp_path / "small.fa").write_bytes(packed((tmp_path / "small.fa").read_bytes()))
    assert estimate(read(small_recipe, Recipe)).bases == sum(map(len, LETTERS.values()))


def test_a_table_of_sequences_is_reckoned_with_its_labels(tmp_path):
    rng = np.random.default_rng(0)
    drawn = np.array(list("ACGT"))[rng.integers(0, 4, (20_000, 50))]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{''.join(row)},{row[0]}\n" for row in drawn))
    (tmp_path / "t.toml").write_text('format = 1\n[sequences]\nname = "t"\nkind = "classes"\ntrain = "t.csv"\n')
    recipe = read(tmp_path / "t.toml", Recipe)
    found = estimate(recipe)
    build(recipe, tmp_path / "t.zarr")
    assert stored(tmp_path / "t.zarr") <= found.bytes <= 8 * stored(tmp_path / "t.zarr")


def test_of_remote_sources_the_size_alone_is_asked_for(small_recipe, monkeypatch):
    text = small_recipe.read_text().replace('"small.fa"', '"https://host/small.fa.gz"')
    small_recipe.write_text(text.replace('"small.gtf"', '"s3://bucket/small.gtf.gz"'))
    asked = []
    monkeypatch.setattr(remote, "describe", lambda uri: asked.append(uri) or remote.Remote(uri, 900_000_000))
    found = estimate(read(small_recipe, Recipe))
    assert sorted(asked) == ["https://host/small.fa.gz", "s3://bucket/small.gtf.gz"]
    assert found.fetched == 1_800_000_000
    assert 3e9 < found.bases < 4e9
    assert found.seconds > 10


def test_workers_share_what_can_be_cut(everything):
    recipe = read(everything / "a.toml", Recipe)
    one, two = estimate(recipe), estimate(recipe, 2)
    assert two.bytes == one.bytes
    assert two.seconds < sum(part.seconds for part in one.parts)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("small.fa", "smal.fa", SourceError, 'there is no such file. Did you mean ".*small.fa"'),
        ("small.gtf", "smal.gtf", SourceError, 'there is no such file. Did you mean ".*small.gtf"'),
        ('"small.gtf"', '"ftp://host/a.gtf"', ConfigError, "track.0..source: ftp://host/a.gtf"),
    ],
)
def test_a_source_that_is_not_there_is_named(small_recipe, old, new, error, message):
    small_recipe.write_text(small_recipe.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        estimate(read(small_recipe, Recipe))


@pytest.mark.data
def test_time_and_memory_of_a_real_genome_are_as_said(data, tmp_path):
    folder = data / "human_b37_chr20"
    peaks = ", ".join(f'"{path}"' for path in sorted((folder / "chipseq_peaks").glob("*.gz"))[:8])
    (tmp_path / "h.toml").write_text(
        f'format = 1\n[assembly]\nname = "h"\nfasta = "{folder}/20.fa.gz"\n'
        f'[[track]]\nname = "genes"\nsource = "{folder}/annotation/spliceai_grch37_transcripts.tsv.gz"\n'
        'kind = "annotation"\nclasses = ["exon", "intron", "donor+", "acceptor+"]\n'
        f'[[track]]\nname = "peaks"\nsource = [{peaks}]\nbin_bp = 16\n'
    )
    found = estimate(read(tmp_path / "h.toml", Recipe))
    command = [sys.executable, "-c", PEAK, "build", "h.toml", "--out", "h.zarr"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    assert int(done.stdout.splitlines()[-1]) * 1024 < found.memory
    assert found.seconds / 3 < seconds < 3 * found.seconds + 3
    assert stored(tmp_path / "h.zarr") < found.bytes


@pytest.mark.parametrize(
    ("spoil", "what"), [(lambda text: text[:40], "cut short"), (lambda text: text[:10] + b"\xff" * 90, "damaged")]
)
@pytest.mark.parametrize("name", ["small.fa", "small.gtf"])
def test_a_damaged_source_is_told_as_a_build_would(small_recipe, tmp_path, name, spoil, what):
    (tmp_path / name).write_bytes(spoil(gzip.compress((tmp_path / name).read_bytes())))
    with pytest.raises(SourceError, match=f"{name}: the gzip stream is {what}.*; fetch the file again"):
        estimate(read(small_recipe, Recipe))
