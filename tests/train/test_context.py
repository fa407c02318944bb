"""Trainings whose workers share windows, against one process; what they cannot share is refused."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Cluster, Lengths
from distgen.errors import ConfigError
from distgen.train.context import check_windows, check_workers
from distgen.train.loop import train
from distgen.train.run import Run
from tests.conftest import RUN
from tests.train.ranks import on_ranks

TRANSFORMER = """family = "transformer"
channels = 8
stem_width = 5
pool = 4
dim = 16
depth = 1
heads = 2
"""
CLASSES = '"base_classes"\ntrack = "genes"'
MASKED = '"masked_lm"\nspan = 3\nsoftmask_rate = 0.3\nsoftmask_weight = 0.5'
DILATED = 'family = "dilated"\nchannels = 8\nstem_width = 3\ndilations = [1, 2]\n'
PAIRS = {  # of workers
    "masked": [DILATED, MASKED],
    "attending": [TRANSFORMER, MASKED],
    "causal": [DILATED + "causal = true\n", '"causal_lm"'],
    "attending back": [TRANSFORMER.replace("pool = 4", "pool = 1\ncausal = true"), '"causal_lm"'],
}
FOURS = {
    "two by two": [TRANSFORMER, CLASSES, "data.target_length=48", "data.batch_size=7", "train.micro_batch=2"],
    "sharded": [TRANSFORMER, MASKED, "cluster.parallel=fsdp"],
    # Slices of 16 bases, of which the outermost have no target.
    "four on one": [DILATED, CLASSES, "data.target_length=16", "cluster.context=4", "train.deterministic=true"],
}


def written(folder, store, name, model, objective):
    text = RUN.format(store=store.path).replace(DILATED, model).replace('"masked_lm"', objective)
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def records(worker, cases):
    """What rank 0 tells of a run of each file, without what its clock says."""
    found = {}
    for file, changes in cases:
        run = Run.read(file, ["optimizer.lr=1e-3", "cluster.context=2", *changes])
        shown, out = [], worker.out / f"{file.stem}-{worker.world_size}"
        out.mkdir(exist_ok=True)
        context = 1 if worker.world_size == 1 else run.cluster.context
        train(run, replace(worker, out=out, context=context, show=shown.append))
        found[file.stem] = json.loads(json.dumps(shown))
    return found


@pytest.mark.parametrize(("workers", "kinds"), [(2, PAIRS), (4, FOURS)])
def test_workers_that_share_windows_train_and_measure_as_one_process(small, tmp_path, workers, kinds):
    cases = [(written(tmp_path, small, name, *case[:2]), case[2:]) for name, case in kinds.items()]
    found = on_ranks(workers, tmp_path, records, cases)[0]
    from distgen.train.worker import Worker

    alone = [(file, [c for c in changes if "cluster" not in c]) for file, changes in cases]
    expected = records(Worker(0, 1, torch.device("cpu"), tmp_path), alone)
    for name, shown in found.items():
        losses = [r["loss"] for r in shown if "loss" in r]
        assert len(losses) == 12, name
        assert losses == pytest.approx([r["loss"] for r in expected[name] if "loss" in r], rel=1e-5), name
        measured, those = ([r["valid"] for r in told if "valid" in r] for told in (shown, expected[name]))
        assert len(measured) == 2
        for here, there in zip(measured, those, strict=True):
            assert here.keys() == there.keys()
            for key in here:
                assert here[key] == pytest.approx(there[key], rel=1e-4, nan_ok=True), (name, key)


def refused(file, *changes):
    with pytest.raises(ConfigError) as error:
        Run.read(file, ["cluster.workers=4", "cluster.context=2", *changes]).check()
    return str(error.value)


def test_what_workers_cannot_share_is_refused_with_what_would_fit(small, tmp_path):
    file = written(tmp_path, small, "attends", TRANSFORMER, MASKED)
    Run.read(file, ["cluster.workers=4", "cluster.context=2"]).check()
    assert "data.window: 60 does not divide into 2 slices" in refused(file, "data.window=60")
    assert "Use 56 or 64." in refused(file, "data.window=60")
    stages = "data.curriculum=[{epochs = 1, window = 36}, {epochs = 1, window = 40}]"
    assert "curriculum[0].window: 36 does not" in refused(file, stages)
    message = refused(file, "cluster.workers=3")
    assert "cluster.context: 2 workers share each window, and 3 are no multiple of it. Use 2 or 4 workers." in message
    assert "Use 2 workers" in refused(file, "cluster.workers=0")
    assert "cluster.workers: 2 workers share each window, and of 2 to 4" in refused(file, "cluster.workers=[2, 4]")
    assert "no multiple of the 4 bases" in refused(file, "data.window=62", "cluster.context=1")
    assert "Use a number from 1 to 4." in refused(file, "train.micro_batch=auto")
    scanned = written(tmp_path, small, "scans", 'family = "ssm"\n', MASKED)
    Run.read(scanned, ["cluster.workers=4"]).check()
    assert 'cluster.context: family "ssm" takes whole windows, which workers cannot share' in refused(scanned)
    # Four workers that share windows in pairs deal the rows of a batch in two.
    Run.read(file, ["cluster.workers=4", "cluster.context=2", "data.batch_size=2"]).check()
    assert "data.batch_size: 1 leaves some of 2 workers" in refused(file, "data.batch_size=1")


@given(
    window=st.integers(1, 3000),
    inside=st.none() | st.integers(0, 40),
    pool=st.sampled_from([1, 4, 16]),
    bin_bp=st.sampled_from([1, 5, 16]),
    context=st.sampled_from([1, 2, 3, 8]),
)
def test_windows_that_are_named_as_fitting_fit(window, inside, pool, bin_bp, context):
    target = None if inside is None else max(window // bin_bp - 2 * inside, 1) * bin_bp
    own = Lengths(epochs=1, window=window, target_length=target)
    try:
        check_windows([own], pool, bin_bp, context)
    except ConfigError as error:
        named = error.problem.rpartition("Use ")[2].rstrip(".")
        if "multiples" in named:
            return
        for good in map(int, named.split(" or ")):
            check_windows([own.model_copy(update={"window": good})], pool, bin_bp, context)
    else:
        assert window % pool == 0
        assert window % context == 0
        if context > 1:
            # Every slice begins where a target does.
            margin = 0 if target is None else (window - target) // 2
            assert all((rank * window // context - margin) % bin_bp == 0 for rank in range(context))


@given(context=st.integers(1, 6), workers=st.integers(1, 40))
def test_workers_that_are_named_as_fitting_fit(context, workers):
    cluster = Cluster(workers=workers, context=context)
    try:
        assert check_workers(cluster) == workers / context
    except ConfigError as error:
        assert workers % context
        named = error.problem.rpartition("Use ")[2].removesuffix(" workers.")
        for good in map(int, named.split(" or ")):
            assert check_workers(Cluster(workers=good, context=context)) == good / context
