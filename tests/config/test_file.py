"""TOML files read, and what is said of what is wrong in them."""

import pytest

from distgen.config import Recipe, digest, is_collection, read
from distgen.errors import ConfigError, redact
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
            r'data\.strand: "reverse" is none of the choices.*Valid: forward, region, random, both',
        ),
        ('"dilated"', '"dilate"', r'model\.family: "dilate" is none of the choices. Did you mean "dilated"'),
        (
            '"masked_lm"',
            '"masked-lm"',
            r'a\.toml:9: objective\.kind: "masked-lm" is none of the choices. Did you mean "masked_lm"',
        ),
        ('store = "a.zarr"\n', "", r'a\.toml:2: data\.store: "store" is missing'),
        (
            "[train]",
            '[log]\nto = "mlflow"\n[train]',
            r'log\.to: it should be a list, such as \["mlflow"\], not "mlflow"',
        ),
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


RECIPE = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[contigs]\nexclude = "chr2"\n',
            r'toml:6: contigs\.exclude: it should be a list, such as \["chr2"\], not "chr2"$',
        ),
        ('[track]\nname = "a"\n', r"toml:5: track: there may be several: write \[\[track\]\]$"),
        ('[[track]]\nname = "a b"\nsource = "a.bed"\n', r'track\[0\]\.name: a name has letters, .* digit, not "a b"$'),
        ("[split]\nfraction = 0.1\n", r"split\.fraction: it should be a table, such as \{ key = value \}, not 0\.1$"),
        ('[[track]]\nname = "a"\nsource = 3\n', r"toml:7: track\[0\]\.source: it should be a path, or a list of paths"),
        (
            '[[track]]\nname = "a"\nsource = []\n',
            r"toml:7: track\[0\]\.source: it should be a path, or a list of paths",
        ),
        (2 * '[[track]]\nname = "a"\nsource = "a.bed"\n', r'toml:9: track\[1\]\.name: two tracks are called "a"$'),
        (
            "[split]\nhomology = {}\n",
            r"toml:6: split\.homology: what resembles valid or test is taken from other parts",
        ),
        ("[splits.x]\nhomology = {}\n", r"toml:6: splits\.x\.homology: what resembles valid or test"),
    ],
)
def test_what_is_wrong_is_told_in_words_of_toml(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, RECIPE + text), Recipe)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = write(tmp_path, "\ufeff" + RECIPE)
    assert read(path, Recipe).text == RECIPE
    path.write_text("\ufeff[collection]\n")
    assert is_collection(path)


def test_what_is_found_to_be_wrong_further_down_is_said_with_file_line_and_key(tmp_path):
    run = Run.read(write(tmp_path, RUN))
    with pytest.raises(ConfigError, match=r"run .*a\.toml:4: data\.jitter: 3 is odd$") as found, run.at("data"):
        raise ConfigError("3 is odd", key="jitter")
    with pytest.raises(ConfigError) as again, run.at("model"):
        raise found.value
    assert str(again.value) == str(found.value)
    with pytest.raises(ConfigError, match=r"a\.toml:2: data: there is none$"), run.at("data"):
        raise ConfigError("there is none")


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


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1}) != digest({"a": 1, "b": [3, 2]})


# ---- remote sources -----------------------------------------------------------------------------


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


def test_what_an_override_gives_wrongly_is_said_of_the_override(tmp_path):
    path = write(tmp_path, RUN)
    with pytest.raises(ConfigError, match=r'a\.toml as overridden: train\.step: there is no key "step"'):
        read(path, Run, ["train.step=4"])
    run = read(path, Run, ["data.jitter=3"])
    assert str(run.error("data.jitter", "X")) == f"run {path} as overridden: data.jitter: X"
    assert str(run.error("data.store", "X")) == f"run {path}:3: data.store: X"


def test_a_file_in_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such file\. There is no folder .*nowhere either"):
        read(tmp_path / "nowhere" / "a.toml", Run)
