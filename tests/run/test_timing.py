"""The clock, with a clock of the test's own."""

from kd_lightning.run import timing
from kd_lightning.run.timing import times


class Clock:
    """Stands still but for what the calls take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_each_call_is_warmed_up_right_before_its_own_block_and_the_calls_take_turns(monkeypatch):
    clock, log = Clock(), []
    monkeypatch.setattr(timing, "time", clock)

    def call(name: str, seconds: float, cold: float):
        def run() -> None:
            clock.now += seconds if log[-3:] == [name] * 3 else cold  # after the other its caches are cold
            log.append(name)

        return run

    one, two = times([call("a", 0.002, 1.0), call("b", 0.05, 2.0)], rounds=3)
    assert abs(one.low - 2) < 1e-6 > abs(one.median - 2)
    assert abs(two.low - 50) < 1e-6 > abs(two.median - 50)
    blocks = [name for place, name in enumerate(log) if place == 0 or log[place - 1] != name]
    assert blocks == ["a", "b"] * 3
    assert log.count("b") == 3 * (timing.WARM_UP + timing.LEAST)
    assert log.count("a") == 3 * (timing.WARM_UP + timing.MOST)


def test_what_else_the_machine_does_moves_the_median_and_not_the_low_quantile(monkeypatch):
    clock, count = Clock(), 0
    monkeypatch.setattr(timing, "time", clock)

    def call() -> None:
        nonlocal count
        count += 1
        clock.now += 0.004 if count % 3 else 0.001

    (measured,) = times([call])
    assert abs(measured.low - 1) < 1e-6
    assert abs(measured.median - 4) < 1e-6
