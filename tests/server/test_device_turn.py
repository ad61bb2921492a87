from __future__ import annotations

import threading

from transformers_fastconformer.server.device_turn import DeviceTurn


def test_live_steps_go_before_files_and_in_the_middle_of_them() -> None:
    turn, order = DeviceTurn(), []
    begun, may_go_on = threading.Event(), threading.Event()

    def file() -> None:
        with turn.files():
            order.append("file")
            begun.set()
            may_go_on.wait(5)
            turn.give_way()
            order.append("file again")

    def live() -> None:
        with turn.live():
            order.append("live")

    def second_file() -> None:
        with turn.files():
            order.append("second file")

    threads = [threading.Thread(target=file)]
    threads[0].start()
    assert begun.wait(5)
    for work in (live, second_file):
        threads.append(threading.Thread(target=work))
        threads[-1].start()
    while not turn._num_live_waiting:
        may_go_on.wait(0.001)
    may_go_on.set()
    for thread in threads:
        thread.join(5)
    assert order.index("live") < order.index("file again")
    assert sorted(order) == ["file", "file again", "live", "second file"]


def test_a_turn_ends_with_an_error() -> None:
    turn = DeviceTurn()
    for context in (turn.live, turn.files):
        try:
            with context():
                raise KeyError
        except KeyError:
            pass
    with turn.files():
        pass
