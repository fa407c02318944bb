"""Speed of the kernels on a GPU, beside what it copies and multiplies at most: python -m benchmarks.gpu

Windows start anywhere in a genome that lies on the device. An op is timed only after its result equals the reference's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import table
from distgen import kernels
from distgen.kernels import reference

GENOME, LENGTH, ROWS = 3 * 2**30, 131_072, 2048  # 2**28 bases a batch
STEM_ROWS, KERNEL, POOL = 16, 15, 8
ROTATED, REPEATS = 4, 20
Work = Callable[[], object]


class Ceiling(NamedTuple):
    """What the device does at most, measured."""

    copied: float  # bytes a second, read and written
    multiplied: float  # bfloat16 operations a second

    @classmethod
    def measured(cls) -> Ceiling:
        source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
        target, n = torch.empty_like(source), 8192
        copied = 2 * source.numel() / seconds([lambda: target.copy_(source)])
        one, other = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        return cls(copied, 2 * n**3 / seconds([lambda: one @ other]))


def seconds(works: list[Work]) -> float:
    """The median time of a call on the device; calls take turns, caches are flushed before each."""
    for work in works:
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    works[0]()
    torch.cuda.synchronize()
    repeats = max(5, min(REPEATS, int(0.5 / (time.perf_counter() - began))))  # so that slow ones leave time for others
    flush = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    pairs = []
    for repeat in range(repeats):
        flush.zero_()
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        works[repeat % len(works)]()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return statistics.median(first.elapsed_time(last) for first, last in pairs) / 1e3


class Case(NamedTuple):
    """An op on each of some batches, and whether it gives for a few rows what the reference does."""

    name: str
    works: list[Work]
    right: Callable[[], bool]
    bytes_per_item: float
    items: int = ROWS * LENGTH

    @classmethod
    def of(cls, name: str, op: Callable[..., object], batches: list[Tensor], bytes_per_item: float) -> Case:
        """From op(module, starts), where the module is the kernels or their reference."""

        def right() -> bool:
            return equal(op(kernels, batches[0][:3]), op(reference, batches[0][:3]))

        return cls(name, [partial(op, kernels, starts) for starts in batches], right, bytes_per_item)


def equal(found: object, expected: object) -> bool:
    if isinstance(found, tuple) and isinstance(expected, tuple):
        return all(equal(one, other) for one, other in zip(found, expected, strict=True))
    return isinstance(found, Tensor) and isinstance(expected, Tensor) and torch.equal(found, expected)


class Genome:
    """Random bases, and batches of windows of it."""

    def __init__(self) -> None:
        generator = torch.Generator("cuda").manual_seed(0)
        draw = partial(torch.randint, generator=generator, device="cuda")
        self.plane = draw(0, 256, (GENOME // 4,), dtype=torch.uint8)
        self.ambiguous = draw(0, 256, (GENOME // 8,), dtype=torch.uint8)
        self.batches = [draw(0, GENOME - LENGTH, (ROWS,)) for _ in range(ROTATED)]
        self.reverse = draw(0, 2, (ROWS,)) == 1
        self.limits = torch.tensor([[0, GENOME]], device="cuda").repeat(ROWS, 1)

    def case(self, name: str, op: str, bytes_written: float, whole: bool = False, **options: object) -> Case:
        """An op on windows; whole: of either strand, with ambiguous bases and limits."""

        def call(module: Any, starts: Tensor) -> object:
            rows, given = len(starts), dict(options)
            if whole:
                given |= {"reverse": self.reverse[:rows], "ambiguous": self.ambiguous, "limits": self.limits[:rows]}
            return getattr(module, op)(self.plane, starts, LENGTH, **given)

        name += ", either strand, ambiguous" if whole else ""
        return Case.of(name, call, self.batches, (3 / 8 if whole else 1 / 4) + bytes_written)


def cases(genome: Genome) -> Iterator[Case]:
    for whole in (False, True):
        yield genome.case("tokens uint8", "tokens", 1, whole, dtype=torch.uint8)
        yield genome.case("tokens int64", "tokens", 8, whole, dtype=torch.int64)
        yield genome.case("one_hot bfloat16", "one_hot", 8, whole, dtype=torch.bfloat16)
        yield genome.case("one_hot bfloat16, channels last", "one_hot", 8, whole, channels_last=True)
        yield genome.case("kmers, k 6, stride 1, int64", "kmers", 8, whole, k=6)
    codes_BL = kernels.tokens(genome.plane, genome.batches[0], LENGTH)
    for span in (1, 6):

        def mask(module: Any, keys: Tensor, span: int = span) -> object:
            return module.mask_tokens(codes_BL[: len(keys)], keys, 0.15, span=span)

        yield Case.of(f"mask_tokens, span {span}", mask, genome.batches, 1 + 1 + 8)
    yield substitution(genome)
    yield bins(genome)


def substitution(genome: Genome) -> Case:
    """A base replaced by two every thousand, as in a haplotype."""

    def arguments(starts: Tensor) -> tuple[Any, ...]:
        every, device = LENGTH // 1000, starts.device
        position = (starts[:, None] + 1000 * torch.arange(every, device=device)).flatten()
        many = len(position)
        offsets = torch.arange(len(starts) + 1, device=device) * every
        inserted = torch.zeros(2 * many, dtype=torch.uint8, device=device)
        changes = (offsets, position, torch.ones_like(position), torch.arange(many + 1, device=device) * 2, inserted)
        return genome.plane, starts, LENGTH, *changes, genome.ambiguous, None

    few, op = arguments(genome.batches[0][:3]), torch.ops.distgen.substitute
    works: list[Work] = [partial(op, *arguments(starts)) for starts in genome.batches]
    return Case("substitute, 1 in 1,000", works, lambda: equal(op(*few), reference.substitute(*few)), 3 / 8 + 3 / 8)


def bins(genome: Genome) -> Case:
    """16 tracks of a million bins, 1,024 of them a window."""
    tracks, many = 16, 1024
    values = torch.rand(2**20, tracks, device=genome.plane.device).bfloat16()

    def gather(module: Any, starts: Tensor) -> object:
        return module.gather_bins(values, starts, many, missing=0.0)

    rows = 2**28 // (tracks * many)
    batches = [starts.repeat(-(-rows // ROWS))[:rows] % (len(values) - many) for starts in genome.batches]
    return Case.of("gather_bins bfloat16, 16 tracks", gather, batches, 2 + 2 + 1)


# ---- the stem, beside torch's own convolution ---------------------------------------------------


class Stem:
    """One first layer, as conv_stem and as one_hot and what torch has for a convolution."""

    def __init__(self, genome: Genome, features: int, fused: bool):
        self.plane, self.batches, self.fused = genome.plane, [b[:STEM_ROWS] for b in genome.batches], fused
        new = partial(torch.randn, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        self.weight, self.bias = new(features, 4, KERNEL), new(features)
        self.options = {"activation": "gelu", "pool": POOL} if fused else {}

    def stem(self, starts: Tensor) -> Tensor:
        return kernels.conv_stem(self.plane, starts, LENGTH, self.weight, self.bias, **self.options)

    def plain(self, starts: Tensor) -> Tensor:
        x_B4L = kernels.one_hot(self.plane, starts, LENGTH)
        return self.finish(F.conv1d(x_B4L, self.weight, self.bias, padding="same"))

    def channels_last(self, starts: Tensor) -> Tensor:
        x_BL4 = kernels.one_hot(self.plane, starts, LENGTH, channels_last=True)
        x_B41L = x_BL4.transpose(1, 2)[:, :, None]  # strides as channels_last has them, without a copy
        weight = self.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        return self.finish(F.conv2d(x_B41L, weight, self.bias, padding="same")[:, :, 0])

    def finish(self, y_BDL: Tensor) -> Tensor:
        return F.max_pool1d(F.gelu(y_BDL), POOL) if self.fused else y_BDL

    def both_ways(self, forward: Callable[[Tensor], Tensor], starts: Tensor) -> object:
        out = forward(starts)
        return torch.autograd.grad(out, (self.weight, self.bias), torch.ones_like(out))

    def right(self) -> bool:
        """Forward and gradients are as near to float64's as bfloat16 allows."""
        starts = self.batches[0][:2]
        wide = Stem.__new__(Stem)
        wide.__dict__ = self.__dict__ | {
            n: getattr(self, n).detach().double().requires_grad_() for n in ("weight", "bias")
        }
        x_B4L = kernels.one_hot(self.plane, starts, LENGTH, dtype=torch.float32).double()
        expected = wide.finish(F.conv1d(x_B4L, wide.weight, wide.bias, padding="same"))
        gradient = torch.randn_like(expected)
        wanted = (expected, *torch.autograd.grad(expected, (wide.weight, wide.bias), gradient))
        out = self.stem(starts)
        found = (out, *torch.autograd.grad(out, (self.weight, self.bias), gradient.bfloat16()))
        return all(
            (one.double() - other).abs().max() <= 0.02 * other.abs().max()
            for one, other in zip(found, wanted, strict=True)
        )

    def seconds(self, forward: Callable[[Tensor], Tensor], backward: bool) -> float:
        call = partial(self.both_ways, forward) if backward else forward
        with torch.set_grad_enabled(backward):
            return seconds([partial(call, starts) for starts in self.batches])

    def peak_bytes(self, forward: Callable[[Tensor], Tensor]) -> int:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.both_ways(forward, self.batches[0])
        return torch.cuda.max_memory_allocated() - before

    def others(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor], bool]]:
        """What torch has: a name, a way forward, and whether cuDNN tries what is fastest."""
        torch.compiler.reset()
        yield "conv1d", self.plain, False
        yield "conv1d, cudnn.benchmark", self.plain, True
        yield "channels last, cudnn.benchmark", self.channels_last, True
        yield "conv1d, compiled, cudnn.benchmark", torch.compile(self.plain), True
        yield "channels last, compiled, cudnn.benchmark", torch.compile(self.channels_last), True


def stem_rows(genome: Genome, features: int, fused: bool, ceiling: Ceiling) -> Iterator[tuple[str, ...]]:
    name = f"conv_stem D {features}" + (", gelu, pool 8" if fused else "")
    stem = Stem(genome, features, fused)
    if not stem.right():
        yield name, "wrong: not timed", "", "", ""
        return
    bases = STEM_ROWS * LENGTH
    operations = 2 * 4 * KERNEL * features * bases
    for backward in (False, True):
        mine, best, by = stem.seconds(stem.stem, backward), float("inf"), ""
        for other, forward, torch.backends.cudnn.benchmark in stem.others():
            if (took := stem.seconds(forward, backward)) < best:
                best, by = took, other
        share = operations * (2 if backward else 1) / mine / ceiling.multiplied
        way = "forward + backward" if backward else "forward"
        yield f"{name}, {way}", f"{bases / mine / 1e9:,.1f}", "", f"{share:.0%}", f"{best / mine:.2f} times {by}"
    mine, best = (stem.peak_bytes(forward) for forward in (stem.stem, stem.plain))
    yield f"{name}, peak memory", "", "", "", f"{mine / best:.2f} of conv1d's {best / 2**30:.2f} GiB"


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: not measured")
        sys.exit(2)
    ceiling, genome = Ceiling.measured(), Genome()
    rows: list[tuple[str, ...]] = []
    for case in cases(genome):
        if not case.right():
            rows.append((case.name, "wrong: not timed", "", "", ""))
            continue
        took = seconds(case.works)
        moved = case.items * case.bytes_per_item / took
        rows.append(
            (case.name, f"{case.items / took / 1e9:,.0f}", f"{moved / 1e9:,.0f}", f"{moved / ceiling.copied:.0%}", "")
        )
        print(*rows[-1], flush=True)  # as it comes, should the machine be taken away
    kernels.check("cuda")
    for features in (256, 512, 768):
        for fused in (False, True):
            for row in stem_rows(genome, features, fused, ceiling):
                rows.append(row)
                print(*row, flush=True)
    device = torch.cuda.get_device_properties(0)
    print(f"\n{device.name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"measured: copies {ceiling.copied / 1e9:,.0f} GB/s (read and written), multiplies")
    print(f"{ceiling.multiplied / 1e12:,.0f} TFLOP/s in bfloat16; batches of 2^28 bases, windows of {LENGTH:,}\n")
    table(("op", "Gbases/s", "GB/s that must move", "of what is copied (multiplied)", "against one_hot and"), rows)
    sys.exit(any("wrong" in cell for row in rows for cell in row))


if __name__ == "__main__":
    main()
