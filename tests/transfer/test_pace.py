"""How many steps are one call; what a run does with them is in test_stylize.py."""

import pytest

from nst_jax.transfer import pace as pace_module


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0.001, pace_module.CAPACITY),
        (0.11, 19),
        (0.7, 3),  # not less than two seconds
        (3.0, 2),  # a call's memory is shared by two
        (5.0, 1),  # nobody waits ten seconds
    ],
)
def test_calls_take_two_seconds_or_two_steps(step, expected, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: now[0])
    pace = pace_module.Pace(2.0, agreed=False)
    made = []
    for compiling in (4.0, 0, 0, 0):
        made.append(pace.steps())
        now[0] += made[-1] * step + compiling
        pace.made(made[-1])
    assert made == [1, 1, expected, expected]


def test_without_seconds_calls_are_as_long_as_they_can_be():
    assert pace_module.Pace(None, agreed=False).steps() == pace_module.CAPACITY
