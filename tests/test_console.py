"""The terminal shows names as they are: no escape sequence is obeyed, no bracket vanishes."""

from __future__ import annotations

import io

from rich.table import Table

from posematch.console import PlainConsole, printable, say, tell

EVIL = "[bold]a\x1b]0;title\x07\x1b[2J\u202eb :smile: [/x]"


def test_printable():
    assert printable(EVIL) == r"[bold]a\x1b]0;title\x07\x1b[2J\u202eb :smile: [/x]"
    assert printable("ä\tb\nc 漢") == "ä\tb\nc 漢"


def test_lines_and_sentences(capsys):
    say(EVIL)
    tell(EVIL)
    out, err = capsys.readouterr()
    assert out == err == printable(EVIL) + "\n"


def test_a_sentence_is_one_line_whatever_names_are_in_it(capsys):
    tell("There is no a\nDone. b\u2028c.")
    assert capsys.readouterr().err == "There is no a\\nDone. b\\u2028c.\n"


def test_every_place_of_a_table():
    output = io.StringIO()
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL, footer=EVIL)
    table.add_row(EVIL)
    PlainConsole(output, width=200).print(table)
    assert "\x1b" not in output.getvalue()
    assert output.getvalue().count("[/x]") == 4
