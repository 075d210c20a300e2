"""What processes say to each other; several are real ones, connected by gloo."""

from nst_jax import agreement, processes
from painter import Painters


def test_one_process_agrees_with_itself_and_leaves_nobody():
    assert agreement.is_first()
    assert agreement.agree(True)
    assert not agreement.agree(False)
    assert agreement.first_says(7) == 7
    assert agreement.exchange("name", {"a": (1, 2)}) == [{"a": [1, 2]}]
    agreement.tell("number", 3)
    assert agreement.told("number") == 0  # nobody else is there to be told
    processes.leave()


def test_a_stop_is_agreed_on(tmp_path):
    with Painters(tmp_path) as two:
        two.wait_for("ready")
        two.processes[1].terminate()
        assert [process.wait(60) for process in two.processes] == [143, 143]
        assert [two.said(number) for number in range(2)] == [["ready\n", ""], ["", ""]]
