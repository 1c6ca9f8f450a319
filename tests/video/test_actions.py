"""Actions as a user writes them."""

from __future__ import annotations

import pytest

from vqaudio.video.actions import action_of_button, parse_actions

KNOWN = ("left", "right", "forward", "step-left")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("forward", (2,)),
        ("forward*3,left*2", (2, 2, 2, 0, 0)),
        (" right * 2 , step-left", (1, 1, 3)),
        ("left,left*1,right", (0, 0, 1)),
    ],
)
def test_a_list_of_actions_is_read(text: str, expected: tuple[int, ...]) -> None:
    assert parse_actions(text, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jump*3", "action 'jump' is not in this prior; it has left, right, forward, step-left"),
        ("", "actions have the form forward\\*20,left\\*10, got ''"),
        ("forward*", "got 'forward\\*'"),
        ("forward*-1", "got 'forward\\*-1'"),
        ("forward*2,,left", "got '' in 'forward\\*2,,left'"),
        ("forward left", "got 'forward left'"),
        ("3*forward", "got '3\\*forward'"),
        ("left*0", "repeated 1 to 100000 times in all, got 'left\\*0'"),
        ("left*99999,right*2", "got 'right\\*2'"),
    ],
)
def test_what_is_no_list_of_actions_is_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_actions(text, KNOWN)


def test_buttons_have_plain_names() -> None:
    buttons = ("TURN_LEFT", "MOVE_FORWARD", "MOVE_RIGHT", "ATTACK", "SELECT_NEXT_WEAPON")
    assert [action_of_button(name) for name in buttons] == [
        "left",
        "forward",
        "step-right",
        "attack",
        "select-next-weapon",
    ]
