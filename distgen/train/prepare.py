"""A model as a run asks for it to be computed: in eight bits, with parts computed twice, compiled. Names stay as they are."""

from __future__ import annotations

import importlib.util
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from distgen.evaluate.strands import check_strands
from distgen.models.boltzmann import BoltzmannConfig
from distgen.models.longconv import Filter
from distgen.models.schema import Schema
from distgen.objectives.contrastive import ContrastiveConfig
from distgen.train.model import build_model, schema_of
from distgen.train.optimizer import ENDS, is_hidden
from distgen.train.precision import check_precision

if TYPE_CHECKING:
    from distgen.objectives import Objective
    from distgen.train.run import Run

_EIGHT_BITS = 16  # what both sizes of a matrix must divide by to be multiplied in eight bits


def prepare(model: nn.Module, run: Run) -> None:
    """Change how a model is computed, in place, before `fully_shard` (which has to come last) spreads it over workers.

    Args:
        model: on its device; its `blocks`, where it has some, are computed again and compiled one by one.
        run: `[train]` says what is done.

    Raises:
        ConfigError: the device cannot do it.
    """
    if run.train.precision == "fp8":
        with run.at("train.precision"):
            check_precision("fp8", next(model.parameters()).device)
        to_float8(model)
    blocks = list(getattr(model, "blocks", [])) or [model]
    if run.train.activation_checkpointing:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if run.train.compile:
        _expect_compilations(len(blocks) * (1 + len(run.data.curriculum)))
        for block in blocks:
            block.compile(dynamic=False)


def to_float8(model: nn.Module, **config: Any) -> None:
    """Have linear layers whose sizes divide by 16 multiply in eight bits, scaled by their tensors' largest numbers (Micikevicius
    et al. 2022); not the first and the last.

    Args:
        model: changed in place; weights stay what they are.
        config: see `torchao.float8.Float8LinearConfig`.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # What is multiplied for a weight's gradient has as many columns as there are bases: padded, so that any number will do.
    eight = Float8LinearConfig(pad_inner_dim=True, **config)
    found = _in_float8(model)
    convert_to_float8_training(model, config=eight, module_filter_fn=lambda module, name: name in found)


def _in_float8(model: nn.Module) -> set[str]:
    """The names of the layers that can. Of filters the weights alone are read, so their layers would change nothing."""
    drawn = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Filter))
    modules = model.named_modules()
    return {name for name, module in modules if not name.startswith(drawn) and _fits_float8(module, name)}


def _fits_float8(module: nn.Module, name: str) -> bool:
    if not isinstance(module, nn.Linear) or name.split(".")[0] in ENDS:
        return False
    if getattr(module, "shared", None):  # what replaces it would take a part of the weights for all
        return False
    return module.in_features % _EIGHT_BITS == 0 and module.out_features % _EIGHT_BITS == 0


def _expect_compilations(kinds: int) -> None:
    """Let blocks be compiled as often as needed: they share their code, and torch would stop after eight kinds of it and go
    on without a word uncompiled. Each has training and validation, and rows of whole, cut and last micro-batches."""
    import torch._dynamo

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 8 * kinds)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 16 * kinds)
    config.fail_on_recompile_limit_hit = True


def check(run: Run, objective: Objective, fewest: int, device: torch.device | None) -> None:
    """Find out whether a run can be computed as it asks for.

    Args:
        fewest: workers that there may be.
        device: where; None where that is not known yet.

    Raises:
        ConfigError: names the key, and what can be asked for.
    """
    train, optimizer, schema = run.train, run.optimizer, schema_of(objective)
    with torch.device("meta"), run.at(""):  # it names whole keys
        model = build_model(run.model, schema)
    _check_strands(run, schema)
    family = f'family "{run.model.family}"'
    if run.cluster.context > 1 and not run.model.shares_windows:
        raise run.error("cluster.context", f"{family} takes whole windows, which workers cannot share: leave it out")
    if train.activation_checkpointing and not len(getattr(model, "blocks", [])):
        raise run.error("train.activation_checkpointing", f"{family} has no blocks that could be computed again")
    if optimizer.kind == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise run.error("optimizer.kind", f'"muon" came with torch 2.9, this is {torch.__version__}: use "adamw"')
        if not any(is_hidden(name, parameter) for name, parameter in model.named_parameters()):
            raise run.error("optimizer.kind", f'{family} has no matrix between its first and last layer: use "adamw"')
    if train.precision == "fp8":
        if getattr(run.model, "rc", None):
            raise run.error(
                "train.precision", 'layers that both strands share (model.rc) have no eight bits: use "bf16"'
            )
        if not _in_float8(model):
            problem = f"{family} of these sizes has no linear layer but its last whose sizes divide by {_EIGHT_BITS}"
            raise run.error("train.precision", f'"fp8" would change nothing: {problem}. Use "bf16".')
        if run.finetune.lora_rank:
            problem = "layers that finetune.lora_rank adds a product to are not computed in eight bits"
            raise run.error("train.precision", f'{problem}: use "bf16"')
        if importlib.util.find_spec("torchao") is None:
            raise run.error("train.precision", '"fp8" needs torchao: pip install "distgen[fp8]"')
    if train.compile and run.cluster.context > 1:
        raise run.error(
            "train.compile", "workers that share windows exchange halos, which cannot be compiled: leave it out"
        )
    _check_micro_batch(run, fewest)
    _check_chains(run, fewest)
    if device is not None:
        with run.at("train.precision"):
            check_precision(train.precision, device)
        if train.compile and (missing := _missing_compiler(device)):
            raise run.error("train.compile", f"{missing}. Install one, or leave compile out.")


def _check_strands(run: Run, schema: Schema) -> None:
    """Raise ConfigError: what both strands are to answer alike, or are asked both, has an answer on one alone."""
    asked = {"model.rc": getattr(run.model, "rc", None), "train.both_strands": run.train.both_strands}
    for key in (key for key, value in asked.items() if value):
        with run.at(key):
            check_strands(schema, run.data.strand)
    if run.train.both_strands and run.cluster.context > 1:
        problem = "windows that workers share are not turned: leave it out, and ask distgen evaluate --both-strands"
        raise run.error("train.both_strands", problem)


def _check_chains(run: Run, fewest: int) -> None:
    """Raise ConfigError: some worker would have none of a machine's chains to go on with."""
    if not isinstance(run.objective, ContrastiveConfig) or not isinstance(run.model, BoltzmannConfig):
        return
    if run.model.chains < (most := max(fewest, run.cluster.most)):
        raise run.error("model.chains", f"{most} workers deal {run.model.chains} among them. Use at least {most}")


def _check_micro_batch(run: Run, fewest: int) -> None:
    asked, cluster, most = run.train.micro_batch, run.cluster, math.ceil(run.data.batch_size / fewest)
    if asked is None:
        return
    if isinstance(run.objective, ContrastiveConfig) and (asked == "auto" or asked < most):
        problem = 'chains (objective "contrastive") go on once in a step, with all rows of a worker together'
        raise run.error("train.micro_batch", f"{problem}: leave it out")
    if run.data.packed and (asked == "auto" or asked < most):
        problem = "rows that hold several samples (data.packed) go through the model together: leave it out"
        raise run.error("train.micro_batch", problem)
    if asked == "auto" and (cluster.parallel != "ddp" or cluster.context > 1):
        # A worker that runs out of memory between two exchanges would leave the others waiting in theirs.
        problem = 'it is found where each worker holds the whole model (cluster.parallel "ddp", context 1)'
        raise run.error("train.micro_batch", f"{problem}. Use a number from 1 to {most}.")


def _missing_compiler(device: torch.device) -> str:
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "triton, which compiles for GPUs, is not there or does not know this one"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler, which compiling for the CPU takes"
    return ""
