"""Where lines end that do not fit: at a terminal's width, and nowhere else."""

from __future__ import annotations

import io

from rich.table import Table

from keras_unet.console import Console


def written(**options):
    console = Console(file=io.StringIO(), **options)
    table = Table("path", *(f"score {number}" for number in range(20)))
    table.add_row("/a/long/path/" * 30, *map(str, range(20)))
    console.print(table)
    console.print("words " * 100)
    return console.file.getvalue().splitlines()


def test_to_a_file_or_another_program_nothing_is_folded_or_padded():
    lines = written()
    assert len(lines) == 6
    assert "/a/long/path/" * 30 in lines[3] and "19" in lines[3]
    assert lines[5] == "words " * 100
    assert max(map(len, lines)) < 1000


def test_a_terminal_has_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    lines = written(force_terminal=True, color_system=None, _environ={"COLUMNS": "60"})
    assert len(lines) > 6 and max(map(len, lines)) <= 60
