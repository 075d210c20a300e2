"""How many steps are one call; what a run does with them is in test_transfer.py."""

import pytest

from nst_jax.transfer import multiscale


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0.001, multiscale.CAPACITY),
        (0.11, 19),
        (0.7, 3),  # not less than two seconds
        (3.0, 2),  # a call's memory is shared by two
        (5.0, 1),  # nobody waits ten seconds
    ],
)
def test_calls_take_two_seconds_or_two_steps(step, expected, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(multiscale.time, "perf_counter", lambda: now[0])
    pace = multiscale._Pace(2.0, agreed=False)
    made = []
    for compiling in (4.0, 0, 0, 0):
        made.append(pace.steps())
        now[0] += made[-1] * step + compiling
        pace.made(made[-1])
    assert made == [1, 1, expected, expected]


def test_without_seconds_calls_are_as_long_as_they_can_be():
    assert multiscale._Pace(None, agreed=False).steps() == multiscale.CAPACITY
