"""Windows of every kind from a run's file: paths, errors with their line, what is another run and what is not."""

import re
import shutil

import pytest
import torch

from distgen import GenomeLoader, kernels
from distgen.config import Windows
from distgen.errors import CheckpointError, ConfigError
from distgen.train.evaluation import evaluate
from distgen.train.run import Run
from tests.conftest import fit

HEAD = """name = "windows"
[data]
store = "store.zarr"
window = 40
batch_size = 4
strand = "random"
last = "wrap"
"""
TAIL = """[model]
family = "dilated"
channels = 8
stem_width = 3
dilations = [1, 2]
[objective]
kind = "masked_lm"
[train]
steps = 4
precision = "fp32"
checkpoint_every = 2
valid_every = 4
threads = 1
[log]
every = 1
"""
KINDS = {
    "regions": '[data.regions]\nsource = "bed/peaks.bed"\nat = "tile"\npad = 12\n',
    "genes": '[data.regions]\nsource = "bed/a.gtf"\nat = "start"\n',
    "matrix": '[data.regions]\nsource = "matrix:expr"\nat = "tile"\n',
    "pools": '[[data.pool]]\nname = "bound"\nsource = "bed/peaks.bed"\nat = "tile"\n'
    '[[data.pool]]\nname = "like"\nmatches = "bound"\ndistance = 20\n'
    '[[data.pool]]\nname = "rest"\nshare = 2.5\n',
    "personal": '[data.personal]\nvariants = "people"\nsamples = ["s2"]\n',
    "exclude": 'exclude = ["bed/holes.bed"]\nmax_ambiguous = 0.3\n',
    "curriculum": "curriculum = [{ epochs = 1, window = 16, target_length = 8 }]\n",
}
ASKED = {
    "regions": {"regions": {"source": "bed/peaks.bed", "at": "tile", "pad": 12}},
    "genes": {"regions": {"source": "bed/a.gtf", "at": "start"}},
    "matrix": {"regions": {"source": "matrix:expr", "at": "tile"}},
    "pools": {
        "pool": [
            {"name": "bound", "source": "bed/peaks.bed", "at": "tile"},
            {"name": "like", "matches": "bound", "distance": 20},
            {"name": "rest", "share": 2.5},
        ]
    },
    "personal": {"personal": {"variants": "people", "samples": ["s2"]}},
    "exclude": {"exclude": ["bed/holes.bed"], "max_ambiguous": 0.3},
}


@pytest.fixture
def folder(annotated, tmp_path):
    """A folder for runs, with the store and, in bed/, what lies beside it."""
    (tmp_path / "store.zarr").symlink_to(annotated.path.resolve())
    (tmp_path / "bed").mkdir()
    for name in ("peaks.bed", "holes.bed", "a.gtf", "peaks.narrowPeak"):
        shutil.copy(annotated.path.parent / name, tmp_path / "bed")
    return tmp_path


def written(folder, kind="", head=HEAD, name="run.toml"):
    (folder / name).write_text(head + kind + TAIL)
    return Run.read(folder / name)


def opened(run, part="train", **options):
    store = run.open_store()
    options = {"training": True} | options
    return run.loader(store, run.build_objective(store), part, **options)


def tokens(loader):
    return [kernels.tokens(**batch.packed) for batch in loader]


@pytest.mark.parametrize("kind", ASKED)
def test_a_run_serves_what_the_same_arguments_serve(folder, kind, monkeypatch):
    loader = opened(written(folder, KINDS[kind]))
    monkeypatch.chdir(folder)
    options = {"window": 40, "batch_size": 4, "strand": "random", "last": "wrap", "split": "train"}
    same = GenomeLoader("store.zarr", **options, windows=Windows.model_validate(ASKED[kind]))
    assert loader.state_dict() == same.state_dict()
    assert all(map(torch.equal, tokens(loader), tokens(same)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_that_a_run_directory_keeps_is_the_same(folder, kind, tmp_path):
    run = written(folder, KINDS[kind])
    (tmp_path / "elsewhere").mkdir()
    run.write(tmp_path / "elsewhere/run.toml")
    again = Run.read(tmp_path / "elsewhere/run.toml")
    assert again.hash() == run.hash()
    assert opened(again).state_dict() == opened(run).state_dict()
    assert again.resolved() == run.resolved()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_goes_on_and_is_evaluated_with_windows_of_every_kind(folder, kind, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    run = written(folder, KINDS[kind])
    run.write(whole / "run.toml")
    assert fit(run, whole)[-1]["step"] == 4
    shutil.copytree(whole, parts, symlinks=True)
    shutil.rmtree(parts / "checkpoints/step-00000004")
    assert fit(run, parts)[0]["step"] == 3
    one, other = ((out / "checkpoints/last/shard-00000-0000.safetensors").read_bytes() for out in (whole, parts))
    assert one == other
    _, found = evaluate(whole, "valid")
    assert found["metrics"]["loss"] > 0


def test_evaluation_serves_every_window_once_as_its_region_is_read(folder):
    head = HEAD.replace('"random"', '"region"').replace('"wrap"', '"drop"\njitter = 3\nstride = 8')
    run = written(folder, '[data.regions]\nsource = "bed/peaks.bed"\n', head)
    loader = opened(run, "valid", training=False)
    found = [(w.start, w.strand, k) for b in loader for w, k in zip(b.where(), b.weight.tolist(), strict=True) if k]
    assert found == [(131, "-", 1.0)]  # base 150 is the first after the middle, as it is read


def test_a_training_on_pools_may_measure_all_windows(folder):
    plain = written(folder)
    pools = written(folder, KINDS["pools"], HEAD + 'measured = "all"\n', "pools.toml")
    for part in ("valid", "test"):
        places = [
            [place for batch in opened(run, part, training=False) for place in batch.where()] for run in (plain, pools)
        ]
        assert places[0] == places[1]
    assert "pool" in next(iter(opened(pools))).targets
    bound = written(folder, KINDS["pools"], HEAD + 'measured = "bound"\n', "bound.toml")
    tiles = written(folder, KINDS["regions"].replace("pad = 12\n", ""), name="tiles.toml")
    found, expected = (next(iter(opened(run, "valid", training=False))).where() for run in (bound, tiles))
    assert found == expected
    with pytest.raises(ConfigError, match=r'data\.measured: .*Did you mean "bound"'):
        opened(written(folder, KINDS["pools"], HEAD + 'measured = "bond"\n'))
    with pytest.raises(ConfigError, match=r"data\.measured: without \[\[data.pool\]\] all windows are measured"):
        opened(written(folder, "", HEAD + 'measured = "all"\n'))


@pytest.mark.parametrize("measured", ["all", "pools"])
def test_a_yes_is_weighed_by_the_windows_that_are_trained_on(folder, measured):
    head = (
        HEAD.replace("random", "forward").replace("window = 40", "window = 41")
        + f'target_length = 1\nstride = 20\nmeasured = "{measured}"\n'
    )
    text = head.replace("wrap", "pad") + KINDS["pools"] + TAIL
    asked = 'kind = "multilabel"\ntarget = "track:genes"\npositive_weight = "balanced"'
    (folder / "run.toml").write_text(text.replace('kind = "masked_lm"', asked))
    run = Run.read(folder / "run.toml")
    store = run.open_store()
    objective = run.build_objective(store)
    yes = known = 0
    for batch in run.loader(store, objective, "train", training=True):
        _, target, valid = objective.encode(batch, torch.float32)
        yes, known = yes + (target * valid).sum(0), known + valid.sum(0)
    assert objective._positive == pytest.approx(((known - yes) / yes).tolist())


@pytest.mark.parametrize("kind", ["regions", "genes", "pools", "exclude"])
def test_moved_files_are_the_same_run_and_other_content_is_refused(folder, kind):
    run = written(folder, KINDS[kind])
    state = opened(run).state_dict()
    (folder / "bed").rename(folder / "moved")
    moved = written(folder, KINDS[kind].replace("bed/", "moved/"))
    assert moved.hash() == run.hash()
    opened(moved, rank=1, world_size=3).load_state_dict(state)
    for name, line in (("peaks.bed", "chrA\t1000\t1101\tx\t0\t+\n"), ("holes.bed", "chrA\t1000\t1101\n")):
        with (folder / "moved" / name).open("a") as file:
            file.write(line)
    with (folder / "moved/a.gtf").open("a") as file:
        file.write('chrA\tt\tCDS\t1001\t1101\t.\t+\t0\tgene_id "x";\n')
    with pytest.raises(CheckpointError, match="the loader's state has data"):
        opened(moved).load_state_dict(state)


@pytest.mark.parametrize(
    "change",
    ["data.window=48", "data.regions.at=middle", "data.regions.pad=13", "data.max_ambiguous=0.5", "data.last=pad"],
)
def test_other_windows_are_another_run(folder, change):
    written(folder, KINDS["regions"].replace("pad = 12\n", ""))
    path = folder / "run.toml"
    assert Run.read(path, [change]).hash() != Run.read(path).hash()


def test_where_and_how_much_is_kept_is_the_same_run(folder):
    written(folder, KINDS["pools"])
    path = folder / "run.toml"
    for change in ('data.placement="host"', 'data.cache="there"', "data.cache_gb=1.5", "cluster.workers=2"):
        assert Run.read(path, [change]).hash() == Run.read(path).hash()


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("matrix", "matrix:expr", "matrix:exp", r'run.toml:8: data\.regions: .*no matrix "exp". Did you mean "expr"'),
        ("matrix", '"tile"', '"summit"', r"run.toml:10: data\.regions\.at: matrix:expr has no summits"),
        ("regions", 'at = "tile"\npad = 12', 'at = "whole"', r"run.toml:6: data\.jitter: whole regions do not move"),
        ("regions", "pad = 12", "padding = 12", r'run.toml:11: .*there is no key "padding" here. Did you mean "pad"'),
        ("regions", '"tile"', '"middel"', r'run.toml:10: data\.regions\.at: "middel" is none of the choices. Did you'),
        ("regions", '"tile"', '"start"', r"run.toml:8: data\.regions: pad widens what is tiled"),
        ("pools", 'matches = "bound"', 'matches = "bond"', r'run.toml:14: data\.pool\[1\]\.matches: there is no pool "bond"'),
        ("pools", "distance = 20", "distance = 2000", r"run.toml:15: data\.pool\[1\]\.distance: no window of 40 bases"),
        ("pools", "share = 2.5", "distance = 2000", r"run.toml:18: data\.pool\[2\]\.distance: nothing lies 2,000 bases"),
        ("pools", "distance = 20", "pad = 20", r"run.toml:12: data\.pool\[1\]: pad: not of a pool without a source"),
        ("personal", '"people"', '"person"', r'data\.personal: .*no variants "person"'),
        ("curriculum", "target_length = 8", "target_length = 9", r"run.toml:8: data\.curriculum\[0\]\.target_length: 9 does"),
        ("exclude", '"bed/holes.bed"', '"$NOWHERE/holes.bed"', r"run.toml:8: data\.exclude: .* needs \$NOWHERE"),
        ("regions", '"bed/peaks.bed"', '"s3://b/peaks.bed"', r"run.toml:9: data\.regions\.source: .* is a URI"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_file_line_and_key(folder, kind, old, new, message):
    head = HEAD.replace('last = "wrap"', "jitter = 4\nlast = 'wrap'")
    head = head.replace('strand = "random"\n', "")
    assert old in KINDS[kind]
    with pytest.raises(ConfigError, match=message):
        opened(written(folder, KINDS[kind].replace(old, new), head))


def test_other_lanes_than_divide_a_batch_are_refused_with_their_line(folder):
    head = HEAD + 'order = "grouped"\nlanes = 3\n'
    with pytest.raises(ConfigError, match=r"run.toml:9: data\.lanes: 3 does not divide a batch of 4"):
        opened(written(folder, "", head))


def test_files_that_are_wrong_are_named_with_the_line_that_names_them(folder):
    with pytest.raises(ConfigError, match=r"run.toml:9: data\.regions\.source: .*bed/peaks\.bed: BED has no summits"):
        opened(written(folder, '[data.regions]\nsource = "bed/peaks.bed"\nat = "summit"\n'))
    missing = r'bed/peeks\.bed: there is no such file. Did you mean "peaks\.bed"'
    with pytest.raises(ConfigError, match=rf"run.toml:9: data\.regions\.source: .*{missing}"):
        opened(written(folder, '[data.regions]\nsource = "bed/peeks.bed"\n'))
    with pytest.raises(ConfigError, match=rf"run.toml:10: data\.pool\[0\]\.source: .*{missing}"):
        opened(
            written(folder, '[[data.pool]]\nname = "a"\nsource = "bed/peeks.bed"\n', HEAD.replace("random", "region"))
        )
    with pytest.raises(ConfigError, match=rf"run.toml:8: data\.exclude: .*{missing}"):
        opened(written(folder, 'exclude = ["bed/peeks.bed"]\n'))


def test_a_run_names_no_inputs_that_no_model_takes(folder):
    with pytest.raises(ConfigError, match=r"run.toml:8: data\.inputs: .*no model that a run can name takes any"):
        opened(written(folder, 'inputs = ["signal"]\n'))


def test_a_run_directory_without_a_run_is_said_to_be_none(tmp_path):
    with pytest.raises(ConfigError, match="is no run directory: it has no run.toml"):
        Run.find(tmp_path)


def test_what_differs_from_the_run_before_is_named(folder):
    before, path = written(folder), folder / "kept.toml"
    before.write(path)
    changed = Run.read(folder / "run.toml", ["data.batch_size=2", "train.steps=9", "model.channels=4"])
    assert changed.differences(path) == ["data.batch_size 4, now 2", "model.channels 8, now 4"]
    assert before.differences(path) == []


@pytest.mark.parametrize(
    ("given", "workers", "message"),
    [
        (["cluster.shards=2"], 4, 'cluster.shards: is of parallel = "hybrid" only, not of "ddp"'),
        (["cluster.parallel=hybrid", "cluster.shards=4"], 6, "use 1 or 2 or 3 or 6 shards, or 4 or 8 workers"),
        (["cluster.parallel=hybrid", "cluster.shards=3"], 2, "use 1 or 2 shards, or 3 workers"),
        (
            ["cluster.parallel=hybrid", "cluster.shards=2", "cluster.workers=[2, 4]"],
            None,
            "2 to 4 workers make no groups of 2 each time",
        ),
    ],
)
def test_workers_that_make_no_groups_are_refused_with_sizes_that_would(run_file, given, workers, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Run.read(run_file, given).check(workers)


def test_workers_that_make_groups_fit(run_file):
    Run.read(run_file, ["cluster.parallel=hybrid", "cluster.shards=2"]).check(4)
