"""What processes say to each other; several are real ones, connected by gloo."""

from nst_jax.distributed import collectives, launch
from painter import Painters


def test_one_process_agrees_with_itself_and_leaves_nobody():
    assert collectives.is_first()
    assert collectives.agree(True)
    assert not collectives.agree(False)
    assert collectives.broadcast_from_first(7) == 7
    assert collectives.allgather_json("name", {"a": (1, 2)}) == [{"a": [1, 2]}]
    collectives.post("number", 3)
    assert collectives.poll("number") == 0  # nobody else is there to be told
    launch.leave()


def test_a_stop_is_agreed_on(tmp_path):
    with Painters(tmp_path) as two:
        two.wait_for("ready")
        two.processes[1].terminate()
        assert [process.wait(60) for process in two.processes] == [143, 143]
        assert [two.said(number) for number in range(2)] == [["ready\n", ""], ["", ""]]
