from types import SimpleNamespace

import pytest
import torch

from distgen.train import clock as clocks
from distgen.train.clock import PARTS, Clock

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class World:
    """Time passes only while something works: on the host, or behind it on a device."""

    def __init__(self):
        self.host = self.device = 0.0
        self.events = self.asked = 0

    def work(self, seconds):
        self.host += seconds
        self.device += seconds


@pytest.fixture
def world(monkeypatch):
    world = World()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            world.events += 1

        def record(self):
            self.at = world.device

        def query(self):
            return True

        def synchronize(self):
            world.asked += 1

        def elapsed_time(self, other):
            return 1e3 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=lambda: world.host))
    return world


class Loader:
    """Batches of 4 samples that take 5 seconds to make and 2 to arrive."""

    def __init__(self, world, count, length=100):
        self.world, self.count, self.length, self.batch_size, self.receiving = world, count, length, 4, None

    def __iter__(self):
        for _ in range(self.count):
            self.world.work(5)
            with self.receiving:
                self.world.work(2)
            yield SimpleNamespace(length=self.length)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_parts_and_the_rest_are_the_whole_time_of_a_step(world, device):
    clock = Clock(device)
    for _ in clock.waiting(Loader(world, 3)):
        with clock.part("forward"):
            world.work(10)
        world.work(3)
    record = clock.record()
    spent = dict.fromkeys((*PARTS, "rest"), 0.0) | {"wait": 5e3, "transfer": 2e3, "forward": 10e3, "rest": 3e3}
    assert record["step_ms"] == pytest.approx(spent)
    assert record["wait_share"] == pytest.approx(5 / 20)
    assert record["samples_per_second"] == pytest.approx(4 / 20)
    assert record["bases_per_second"] == pytest.approx(400 / 20)
    assert set(clock.record()) == set(record)  # also of no step at all


def test_on_a_gpu_a_host_that_waits_while_the_device_has_work_costs_nothing(world):
    clock = Clock(GPU)
    with clock.part("wait"):
        world.host += 7
    with clock.part("forward"):
        world.device += 2
    world.host += 1
    assert world.asked == 0
    spent = clock.record()["step_ms"]
    assert spent["wait"] == 0
    assert spent["forward"] == 2e3


def test_events_are_used_again_and_do_not_pile_up_when_nobody_asks_for_long(world):
    clock = Clock(GPU)
    for _ in range(20_000):
        with clock.part("forward"):
            world.work(1)
    assert world.events < 10_000
    assert world.asked == 0
    assert clock.record()["step_ms"]["forward"] == 20_000e3
    made = world.events
    for _ in range(100):
        with clock.part("forward"):
            world.work(1)
    assert clock.record()["step_ms"]["forward"] == 100e3
    assert world.events == made


def test_pauses_count_for_no_speed(world):
    clock = Clock(CPU)
    list(clock.waiting(Loader(world, 2)))
    with clock.paused():
        world.work(100)
    assert clock.record()["samples_per_second"] == pytest.approx(8 / 14)


def test_mfu_is_what_was_computed_of_what_could_be(world):
    clock = Clock(CPU, flops=lambda length: 10 * length, peak=1e4)
    list(clock.waiting(Loader(world, 2)))
    list(clock.waiting(Loader(world, 1, length=50)))
    assert clock.record()["mfu"] == pytest.approx((8 * 1000 + 4 * 500) / 21 / 1e4)
    clock = Clock(CPU, flops=lambda length: 10 * length)
    list(clock.waiting(Loader(world, 2)))
    assert "mfu" not in clock.record()
