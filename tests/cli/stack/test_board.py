"""What is true of the lines on the terminal."""

import io

from cli.stack.board import Board
from cli.stack.home import PartState


def test_a_pipe_gets_a_line_for_each_change() -> None:
    out = io.StringIO()
    hub, store = PartState(name="hub"), PartState(name="store")
    with Board(out) as board:
        board.show([hub, store])
        board.show([hub, PartState(name="store", standing="starting", pid=7)])
        board.show([hub, PartState(name="store", standing="starting", pid=7)])
        board.show([hub, PartState(name="store", standing="down", restarts=2, note="exited with 1: [no] disk")])

    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["store", "starting"],
        ["store", "down", "restarts", "2", "exited", "with", "1:", "[no]", "disk"],
    ]
