import threading
import time
from collections import OrderedDict

import numpy as np
import pytest

from nst_jax import Config, InputError, Losses, Snapshot
from nst_jax.app.live import Live
from nst_jax.transfer.schedule import make_schedule

PICTURE = np.zeros((20, 24, 3), np.float32)
SCHEDULE = make_schedule((20, 24), [(20, 24)], Config(size=24, min_size=0, steps=8))


def watched(live, *, steps=8, seconds=0.01):
    """Let a run of some steps be watched in a thread; return the steps that it has made, and it."""
    made = []

    def run():
        def snapshots():
            for step in range(1, steps + 1):
                time.sleep(seconds)
                made.append(step)
                losses = Losses(*[np.ones(1, np.float32)] * 3, *[OrderedDict()] * 3)
                yield Snapshot(step=step, image=PICTURE, losses=losses, finite=True)

        for _ in live.watch(snapshots()):
            if live.stopped:
                break
        live.end()

    live.begin(PICTURE, SCHEDULE, steerable=True)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return made, thread


def until(live, condition, seconds=10.0):
    end = time.monotonic() + seconds
    view = live.view
    while not condition(view):
        assert time.monotonic() < end
        view = live.wait(view.version, 0.5)
    return view


def test_each_snapshot_is_shown_and_the_end():
    live = Live()
    assert live.view.phase == "waiting"
    made, thread = watched(live)
    view = until(live, lambda view: view.phase == "ended")
    thread.join(5)
    assert made == [1, 2, 3, 4, 5, 6, 7, 8]
    assert view.last.step == 8
    assert view.left.seconds == 0


def test_while_it_is_paused_nothing_is_made_and_the_clock_stands():
    live = Live()
    made, thread = watched(live, steps=40, seconds=0.02)
    until(live, lambda view: view.last)
    live.pause(on=True)
    until(live, lambda view: view.phase == "paused")
    time.sleep(0.1)
    before, clock = list(made), live.clock()
    time.sleep(0.3)
    assert made == before
    live.pause(on=False)
    until(live, lambda view: view.phase == "painting" and view.last.step > before[-1])
    assert live.clock() - clock < 0.25
    live.stop()
    thread.join(5)
    assert made[-1] < 40


def test_a_run_that_is_paused_can_be_stopped():
    live = Live()
    _, thread = watched(live)
    live.pause(on=True)
    live.stop()
    thread.join(5)
    assert live.view.phase == "ended"


@pytest.mark.parametrize("paused", [False, True])
def test_the_limit_holds_for_a_paused_run_too(paused):
    live = Live(seconds=0.2)
    live.pause(on=paused)
    made, thread = watched(live, steps=500, seconds=0.01)
    thread.join(10)
    assert not thread.is_alive()
    assert made[-1] < 500
    assert live.view.notes == ("stopped after 0.2 s, which is the limit",)


def test_numbers_hold_from_the_call_after_they_were_changed():
    live = Live()
    assert live.adjust(0) == {}
    live.steer({"style_weight": 2.0})
    assert live.adjust(3) == live.adjust(5) == {"style_weight": 2.0}
    live.steer({})
    assert live.adjust(7) == {}
    assert live.changes == [(3, {"style_weight": 2.0}), (7, {})]
    with pytest.raises(InputError, match="tv_weight cannot change on the way"):
        live.steer({"tv_weight": 1.0})
    assert live.adjust(8) == {}


def test_the_end_waits_for_those_who_watch():
    live = Live()
    live.end()
    live.seen(60.0)  # nobody watches
    with live.watched():
        began = time.monotonic()
        live.seen(0.2)
        assert 0.2 <= time.monotonic() - began < 10
