import pytest

from distgen.config import Recipe, digest, is_bed, read, redact, source_name
from distgen.errors import ConfigError
from distgen.train.run import Run

RUN = """name = "a-run"
[data]
store = "a.zarr"
jitter = 0
[model]
family = "dilated"
channels = 8
[objective]
kind = "masked_lm"
[train]
steps = 10
"""


def write(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "jitter = 0",
            "jiter = 0",
            r'run .*a\.toml:4: data\.jiter: there is no key "jiter" here\. Did you mean "jitter"',
        ),
        ("channels = 8", "chanels = 8", r'a\.toml:7: model\.chanels: .*Did you mean "channels"'),
        ("[train]", "rte = 0.1\n[train]", r'a\.toml:10: objective\.rte: .*Did you mean "rate"'),
        ("jitter = 0", 'jitter = "none"', r"a\.toml:4: data\.jitter: input should be a valid integer, not \"none\""),
        ("jitter = 0", "jitter = true", r"a\.toml:4: data\.jitter: input should be a valid integer, not true"),
        ("jitter = 0", "jitter = -1", r"a\.toml:4: data\.jitter: input should be greater than or equal to 0, not -1"),
        (
            "jitter = 0",
            'strand = "reverse"',
            r'data\.strand: "reverse" is none of the choices.*Valid: forward, random, both',
        ),
        ('"dilated"', '"dilate"', r'model\.family: "dilate" is none of the choices. Did you mean "dilated"'),
        (
            '"masked_lm"',
            '"masked-lm"',
            r'a\.toml:8: objective: "masked-lm" is none of the choices. Did you mean "masked_lm"',
        ),
        ('store = "a.zarr"\n', "", r'a\.toml:2: data\.store: "store" is missing'),
        ("[train]\nsteps = 10", "", r'a\.toml: train: "train" is missing'),
        ("steps = 10", "steps = 10\nepochs = 1", r"a\.toml:10: train: give either steps or epochs"),
        (
            '"masked_lm"',
            '"masked_lm"\nmask = 0.9\nrandom = 0.2',
            r"objective.*mask 0.9 and random 0.2 are more than 1 together",
        ),
        (
            "[train]",
            "[optimizer]\nbetas = [1, 0.9]\n[train]",
            r"a\.toml:11: optimizer\.betas\[0\]: input should be less than 1",
        ),
        ("jitter = 0", "seed = 9223372036854775808", r"a\.toml:4: data\.seed"),
        ("steps = 10", "steps = ", r"run .*a\.toml: .*line 11"),
        ("[train]", "[trian]", r'trian: there is no key "trian" here. Did you mean "train"|train: "train" is missing'),
    ],
)
def test_a_wrong_key_names_file_line_key_and_the_nearest_choice(tmp_path, old, new, message):
    assert old in RUN
    with pytest.raises(ConfigError, match=message) as caught:
        Run.read(write(tmp_path, RUN.replace(old, new)))
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


def test_the_second_track_is_told_from_the_first(tmp_path):
    track = '[[track]]\nname = "{}"\nsource = "x.gtf"\nclasses = ["cds"]\n'
    text = (
        'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
        + track.format("one")
        + track.format("two")
        + "bins = 3\n"
    )
    with pytest.raises(ConfigError, match=r"a\.toml:13: track\[1\]\.bins: there is no key"):
        read(write(tmp_path, text), Recipe)


def test_overrides_are_toml_or_bare_words(tmp_path):
    path = write(tmp_path, RUN)
    run = Run.read(path, ["train.steps=200", "data.strand=random", "model.dilations=[1, 2]", "optimizer.lr=1e-4"])
    assert (run.train.steps, run.data.strand, run.model.dilations, run.optimizer.lr) == (200, "random", (1, 2), 1e-4)


@pytest.mark.parametrize("override", ["steps=3", "train.steps", "name.x=3", "train.step=3"])
def test_an_override_that_does_not_fit_is_refused(tmp_path, override):
    with pytest.raises(ConfigError):
        Run.read(write(tmp_path, RUN), [override])


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path, RUN)
    with pytest.raises(ConfigError, match=r'no such file. Did you mean ".*a\.toml"'):
        Run.read(tmp_path / "b.toml")


def test_paths_are_relative_to_the_file_and_take_variables(tmp_path, monkeypatch):
    run = Run.read(write(tmp_path, RUN))
    assert run.resolve("../x", "data.store") == tmp_path.parent / "x"
    monkeypatch.setenv("SOMEWHERE", "/data")
    assert str(run.resolve("$SOMEWHERE/x", "data.store")) == "/data/x"
    with pytest.raises(ConfigError, match=r"a\.toml:3: data\.store: .* needs \$NOWHERE, which is not set"):
        run.resolve("$NOWHERE/x", "data.store")


def test_the_resolved_run_reads_as_the_same_run(tmp_path):
    run = Run.read(write(tmp_path, RUN))
    run.write(tmp_path / "elsewhere.toml")
    again = Run.read(tmp_path / "elsewhere.toml")
    assert again.resolved() == run.resolved()
    assert again.hash() == run.hash()


def test_the_hash_ignores_how_long_and_where_but_not_what(tmp_path):
    path = write(tmp_path, RUN)
    same = [
        "train.steps=99",
        "cluster.workers=2",
        "log.every=1",
        "data.placement=host",
        "train.keep=9",
        "train.checkpoint_every=3",
    ]
    assert all(Run.read(path, [change]).hash() == Run.read(path).hash() for change in same)
    other = [
        "data.seed=1",
        "model.channels=9",
        "objective.rate=0.2",
        "optimizer.lr=0.1",
        "data.batch_size=8",
        "train.precision=fp32",
        "train.threads=1",
    ]
    assert len({Run.read(path, [change]).hash() for change in other} | {Run.read(path).hash()}) == len(other) + 1


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


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1}) != digest({"a": 1, "b": [3, 2]})


# ---- remote sources -----------------------------------------------------------------------------


def _remote(tmp_path, uri):
    track = f'[[track]]\nname = "t"\nsource = "{uri}"\n'
    return read(write(tmp_path, f'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n{track}'), Recipe)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa%40ss@host:80/a/b.fa?sig=x&y=z", "https://host:80/a/b.fa"),
        ('fasta = "http://token@host/b.fa" # s3://b/c@d.fa', 'fasta = "http://host/b.fa" # s3://b/c@d.fa'),
        ("['https://h/a?k=v', 'https://u:p@h/b']", "['https://h/a', 'https://h/b']"),
        ("me@host/a.fa?b", "me@host/a.fa?b"),
    ],
)
def test_what_may_be_secret_in_a_uri_is_not_shown(text, shown):
    assert redact(text) == shown


def test_the_query_of_a_uri_is_no_part_of_the_name(tmp_path):
    recipe = _remote(tmp_path, "https://me:pw@host/a/signal.bw?sig=a/b.bed")
    assert recipe.track[0].kind == "signal"
    assert recipe.track[0].names == ("signal",)
    assert is_bed("s3://b/valid.bed.gz")
    assert source_name("gs://b/c/d.fa.gz") == "d.fa.gz"


def test_a_remote_source_is_fetched_when_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET", "s3://b")
    recipe, fetched = _remote(tmp_path, "$BUCKET/a.bw"), []
    with pytest.raises(
        ConfigError, match=r"track\[0\]\.source: s3://b/a\.bw is not on this machine; distgen build fetches"
    ):
        recipe.resolve("$BUCKET/a.bw", "track.0.source")
    there = recipe.fetching(lambda uri: fetched.append(uri) or tmp_path / "there")
    assert there.resolve("$BUCKET/a.bw", "track.0.source") == tmp_path / "there"
    assert there.resolve("a.fa", "assembly.fasta") == tmp_path / "a.fa"
    assert fetched == ["s3://b/a.bw"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/a.bw", "ftp://host/a.bw: .*Valid: s3, gs, az, https, http. A file is named by its path"),
        ("s3://key:SECRET@bucket/a.bw", "s3://bucket/a.bw: credentials belong into the environment"),
        ("https://me:SEC?RET@host/a.bw", "this is no valid URI; in a password, @ is written %40"),
        ("https://me:SEC RET@host/a.bw", "this is no valid URI"),
        ("s3://bucket/", "s3://bucket/ names no file; write s3://BUCKET/NAME"),
        ("s3://bucket", "s3://bucket names no file"),
        ("https://host/a/..", "https://host/a/.. names no file"),
    ],
)
def test_a_uri_that_names_no_source_is_refused(tmp_path, uri, message):
    recipe = _remote(tmp_path, "a.bw")
    with pytest.raises(ConfigError, match=message) as raised:
        recipe.uri(uri, "track.0.source")
    assert "SEC" not in str(raised.value)


def test_a_source_of_unknown_kind_is_told_without_its_credentials(tmp_path):
    with pytest.raises(ConfigError, match='kind is missing: "https://host/a.xyz" does not tell it') as raised:
        _remote(tmp_path, "https://me:SECRET@host/a.xyz?sig=SECRET")
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("source", ["3", "true", "{ a = 1 }", "1.5"])
def test_a_source_of_another_type_is_refused_in_one_line(tmp_path, source):
    text = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[[track]]\nname = "t"\n'
    with pytest.raises(ConfigError, match=r"track\[0\]\.source"):
        read(write(tmp_path, f"{text}source = {source}\n"), Recipe)


@pytest.mark.parametrize(
    ("splits", "name"),
    [
        ('[splits.cv]\nfolds = 3\n[splits."cv-0"]\ntest = ["chr1"]\n', "cv-0"),
        ('[split]\nfolds = 3\n[splits."default-2"]\ntest = ["chr1"]\n', "default-2"),
    ],
)
def test_a_fold_and_a_split_of_one_name_are_refused(tmp_path, splits, name):
    text = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
    with pytest.raises(ConfigError, match=f'two splits are called "{name}"'):
        read(write(tmp_path, text + splits), Recipe)
    assert read(write(tmp_path, text + splits.replace(f'"{name}"', '"other-0"')), Recipe)
