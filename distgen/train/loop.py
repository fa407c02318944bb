"""The whole training, top to bottom. It knows nothing of Ray: any launcher that makes a `Worker` can run it."""

from __future__ import annotations

import math
from typing import Any

import torch

from distgen.train.aside import Aside
from distgen.train.checkpoint import Checkpoints
from distgen.train.clock import Clock
from distgen.train.context import share_windows
from distgen.train.evaluation import validation_loaders
from distgen.train.finetune import start_model
from distgen.train.flops import Flops, peak_flops
from distgen.train.micro_batch import micro_batch
from distgen.train.model import schema_of
from distgen.train.optimizer import Updater
from distgen.train.parallel import broadcast_parameters, parallelize
from distgen.train.precision import Precision
from distgen.train.prepare import prepare
from distgen.train.reproducible import settle
from distgen.train.run import Run
from distgen.train.state import State
from distgen.train.step import Learner, train_step
from distgen.train.worker import Worker


def train(run: Run, worker: Worker) -> None:
    """Train a run to its end, from its newest checkpoint if there is one.

    Args:
        run: what to train.
        worker: which rank this is; all ranks call this with the same run.

    Raises:
        TrainError: a loss or gradient was not finite; names the windows.
        PreemptedError: a worker was asked to leave; what was trained is kept.
    """
    state = start_or_resume(run, worker)
    with state.told():
        for batch in state.batches():
            state.saw(train_step(state.learner, batch, state.step, state.clock, state.asks()), batch)
            if state.due(run.log.every):
                state.log()
            better = state.due(run.train.valid_every) and state.validate()
            if better or state.due(run.train.checkpoint_every) or state.ends:
                state.save()
        state.close()


def start_or_resume(run: Run, worker: Worker) -> State:
    """Everything as it was at the newest checkpoint of this run, or new."""
    settle(run)
    store = run.open_store()
    context = share_windows(worker)
    objective = run.build_objective(store, context)
    ranks: dict[str, Any] = {"rank": worker.data_rank, "world_size": worker.data_size, "device": worker.device}
    loader = run.loader(store, objective, "train", training=True, **ranks)
    judged = validation_loaders(run, store, objective, **ranks)
    steps = run.train.steps or loader.plan.steps(run.train.epochs or 0)

    aside = Aside(worker.aside) if worker.aside else None
    keep = {"keep": run.train.keep, "keep_best": run.train.keep_best}
    kept = Checkpoints(run.checkpoints(worker.out), worker, **keep, asked=aside)
    if found := kept.newest():
        found.expect(run=run.hash(), store=run.identity(store, objective))

    torch.manual_seed(run.data.seed)
    model = start_model(run, schema_of(objective), begins=found is None, context=context).to(worker.device)
    broadcast_parameters(model)
    clock = _clock(run, worker, Flops(model, objective.in_channels, context))
    prepare(model, run)
    dtype = run.precision(worker.device)
    precision = Precision(dtype, worker.device, run.data.batch_size * loader.lengths[-1].window)
    rows = math.ceil(run.data.batch_size / worker.data_size)
    at_once = micro_batch(run, worker, model, objective, precision, loader, rows, found)
    parallel = parallelize(model, worker, run.cluster, deterministic=run.train.deterministic, dtype=dtype)
    learner = Learner(
        model,
        objective,
        parallel,
        Updater(run.optimizer, model, steps),
        precision,
        at_once,
        math.ceil(rows / at_once),
        run.optimizer.clip_norm,
        (run.data.seed, worker.rank),
    )
    state = State(run, worker, store, learner, loader, judged, kept, aside, steps, clock)
    if found:
        state.load(found)
    return state


def _clock(run: Run, worker: Worker, flops: Flops) -> Clock:
    """Rank 0 makes the records, and knows how busy the devices are if anybody knows what they can do."""
    dtype = run.precision(worker.device)
    peak = peak_flops(worker.device, dtype, run.log.peak_tflops) if worker.leads else None
    return Clock(worker.device, flops, peak and peak * worker.world_size)
