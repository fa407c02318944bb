import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from tests.config.test_file import write


def test_columns_that_differ_in_strand_swap_places(tmp_path):
    text = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[[track]]\nname = "g"\nsource = "x.gtf"\nclasses = ["exon", "cds-", "cds+"]\n'

    def permutation(text):
        track = read(write(tmp_path, text), Recipe).track[0]
        return track.permutation(track.names)

    assert permutation(text) == (0, 2, 1)
    assert permutation(text + 'swap = [["exon", "cds+"]]') == (2, 1, 0)
    with pytest.raises(ConfigError, match='swap names column "cds"'):
        permutation(text + 'swap = [["exon", "cds"]]')


def test_the_kind_of_a_track_is_told_by_its_source(tmp_path):
    text = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[[track]]\nname = "g"\n'
    for source, keys, kind in [
        ("a.gff3.gz", 'classes = ["exon"]', "annotation"),
        ("a.narrowPeak.gz", "summit = 100", "intervals"),
        ("a.bw", "bin_bp = 16", "signal"),
        ("a.bam", "tn5 = true", "alignments"),
    ]:
        track = read(write(tmp_path, f'{text}source = "{source}"\n{keys}\n'), Recipe).track[0]
        assert track.kind == kind
    assert track.names == ("a",)
    for source, keys, message in [
        ("a.txt", "", "kind is missing"),
        ("a.bw", 'classes = ["exon"]', '"classes" does not belong to a track of kind "signal"'),
        ("a.gtf", "", "classes is missing"),
        ("a.bam", "min_covered = 0.5", '"min_covered" does not belong'),
    ]:
        with pytest.raises(ConfigError, match=message):
            read(write(tmp_path, f'{text}source = "{source}"\n{keys}\n'), Recipe)
    with pytest.raises(ConfigError, match="the same name"):
        read(write(tmp_path, text + 'source = ["x/a.bw", "y/a.bw"]\n'), Recipe)


@pytest.mark.parametrize("source", ["3", "true", "{ a = 1 }", "1.5"])
def test_a_source_of_another_type_is_refused_in_one_line(tmp_path, source):
    text = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[[track]]\nname = "t"\n'
    with pytest.raises(ConfigError, match=r"track\[0\]\.source"):
        read(write(tmp_path, f"{text}source = {source}\n"), Recipe)
