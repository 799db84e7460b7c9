"""Timing with a clock that the tests move, so that every number is known."""

from cbam_lightning.benchmarks import clocks
from cbam_lightning.benchmarks.timing import alternate, in_turns


def test_turns_are_reversed_in_every_other_round():
    order = []

    def measure(name):
        def once():
            order.append(name)
            return float(len(order))

        return once

    results = in_turns({name: measure(name) for name in "abc"}, repeats=3)
    assert "".join(order) == "abccbaabc"
    assert results == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_steady_drift_adds_the_same_to_every_candidate(clock):
    def slower_every_time():
        clock.now += 1 + len(clock.called) / 64
        clock.called.append("")

    results = alternate(dict.fromkeys("abc", slower_every_time), repeats=4)
    assert len({sum(seconds) for seconds in results.values()}) == 1
    assert len({tuple(seconds) for seconds in results.values()}) == 3


def test_short_calls_are_repeated_until_a_measurement_lasts_milliseconds(clock):
    # 1, 2 and 4 calls of a 2 ** -10 s last less than 5 ms, 8 do not
    candidates = {"short": clock.candidate("short", 2**-10), "long": clock.candidate("long", 0.5)}
    assert alternate(candidates, repeats=3, warmup=2) == {"short": [2**-10] * 3, "long": [0.5] * 3}
    assert clock.called.count("short") == 2 + (1 + 2 + 4 + 8) + 3 * (1 + 8)
    assert clock.called.count("long") == 2 + 1 + 3 * (1 + 1)
    assert 8 * 2**-10 >= clocks.SHORTEST_S > 4 * 2**-10


def test_there_is_a_warm_up_even_if_none_is_asked_for(clock):
    alternate({"a": clock.candidate("a", 1)}, repeats=1, warmup=0)
    assert clock.called == ["a"] * 4  # to warm up, to find the number of calls, off the clock, to measure


def test_every_measurement_follows_a_call_of_the_same_candidate_off_the_clock(clock):
    def after(name):
        def call():
            clock.now += 1 if clock.called and clock.called[-1] == name else 100
            clock.called.append(name)

        return call

    assert alternate({"a": after("a"), "b": after("b")}, repeats=2) == {"a": [1, 1], "b": [1, 1]}


def test_a_real_clock_sees_which_of_two_takes_longer():
    seconds = alternate({"one": lambda: sum(range(1000)), "ten": lambda: sum(range(10_000))}, repeats=5)
    assert all(0 < value < 0.1 for values in seconds.values() for value in values)
    assert min(seconds["ten"]) > 3 * min(seconds["one"])
