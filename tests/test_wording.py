"""Numbers, names and values in a sentence."""

import errno
import os

import pytest

from genesis_toolkit.pipeline.wording import counted, listed, reason_of, value_words, words_of, wrapped


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (counted(1, "cube"), "1 cube"),
        (counted(0, "cube"), "0 cubes"),
        (counted(12_345, "patch", "patches"), "12,345 patches"),
        (listed([]), ""),
        (listed(["a", "b"]), "a, b"),
        (listed(range(5)), "0, 1, 2, 3, 4"),
        (listed(range(1_006)), "0, 1, 2, 3, 4 and 1,001 more"),
        (listed(["a", "b", "c"], most=1, between="; "), "a; and 2 more"),
        (value_words([64, 64, 32]), "64,64,32"),
        (value_words("auto"), "auto"),
        (words_of("\x1b[2J"), r"'\x1b[2J'"),
        (words_of(ValueError), "<class 'ValueError'>"),
        (reason_of(OSError(errno.EIO, os.strerror(errno.EIO))), "Input/output error"),
        (reason_of(ValueError("no")), "no"),
        (
            wrapped("No scan.\n  a.nii: too few slices\nLower it.", 16),
            "No scan.\n  a.nii: too few\n    slices\nLower it.",
        ),
        (wrapped("Kept in /a-long/path.", 10), "Kept in\n/a-long/path."),
    ],
)
def test_words(told: str, words: str) -> None:
    assert told == words


def test_a_long_value_is_cut_off() -> None:
    told = words_of("x" * 10**6)
    assert len(told) == 59
    assert told.endswith("x ...")
