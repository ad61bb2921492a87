"""An error is one line on the standard error, whatever is in it."""

from __future__ import annotations

import pytest

from transformers_fastconformer.cli.errors import say, show_error


def test_an_error_is_one_line_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    message = "level='[bold]' is not supported; expected one of ['char', 'word'] " + 200 * "x"
    show_error(ValueError(message))
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {message}\n")


def test_names_do_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(ValueError("a\x1b[2J\u202ex.wav\nis none"))
    say("a\rb: strategy local.")
    assert capsys.readouterr().err == "error: a\\u001b[2J\\u202ex.wav is none\na\\u000db: strategy local.\n"
