"""Where lines end, characters that a stream lacks, and readers that are gone."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings

import pytest
from rich.table import Table

from keras_unet.console import (
    Console,
    console_of,
    keep_quiet,
    run_app,
    say,
    take_every_character,
)
from keras_unet.errors import DataError


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


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "112 -> 96 px x 4, 3 um, <= 5, sigma, cafe, ? 12"),
        ("cp1252", "112 -> 96 px × 4, 3 µm, <= 5, sigma, café, ? 12"),
        ("latin-1", "112 -> 96 px × 4, 3 µm, <= 5, sigma, café, ? 12"),
        ("cp437", "112 -> 96 px x 4, 3 µm, ≤ 5, σ, café, ? 12"),
        ("utf-8", "112 → 96 px × 4, 3 µm, ≤ 5, σ, café, 核 12"),
    ],
)
def test_what_an_encoding_lacks_is_written_by_stand_ins(encoding, expected, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    said = "112 → 96 px × 4, 3 µm, ≤ 5, σ, café, 核 12"
    Console().print(said)
    print(said)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert lines == [expected, expected]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_file_name_that_is_no_text_keeps_its_bytes(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    take_every_character()
    print(os.fsdecode(b"cell\xff.png"))
    stream.flush()
    assert stream.buffer.getvalue().strip() == b"cell\xff.png"


def test_work_goes_on_when_nobody_reads_any_more():
    code = """
import sys
from keras_unet.console import Console
console = Console()
for number in range(20000):
    console.print(f"line {number}")
print("done", file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipe) as process:
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.stderr.read() == b"done\n"
    assert process.returncode == 0


def test_a_console_that_is_made_when_asked_for_knows_where_it_writes(tmp_path):
    with (tmp_path / "log").open("w") as file, contextlib.redirect_stdout(file):
        say("done", "bold green", console_of(None, 1))
    assert (tmp_path / "log").read_text() == "done\n"


def test_no_bar_takes_the_output_of_others_where_all_is_quiet(capsys):
    from keras_unet.training.callbacks import Budget, ShowProgress

    quiet = Console(file=io.StringIO(), force_terminal=True, quiet=True)
    shown = ShowProgress(Budget(1e-3, 2, None), quiet)
    shown.on_train_begin()
    print("a person's own line")
    assert capsys.readouterr().out == "a person's own line\n"


def test_warnings_and_errors_of_a_command_are_a_line_each(capsys, monkeypatch):
    def command():
        warnings.warn("a class is missing", stacklevel=1)
        raise DataError("cells.tif: cut off")

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # undone at the end
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for quiet, lines in ((False, ["Warning: a class is missing"]), (True, [])):
            keep_quiet(quiet)
            with pytest.raises(SystemExit):
                run_app(command)
            assert capsys.readouterr().err.splitlines() == [*lines, "Error: cells.tif: cut off"]
    keep_quiet(False)


@pytest.mark.parametrize(("argument", "found"), [("--version", "keras-unet 0"), ("-h", "Usage")])
def test_the_package_is_a_program(argument, found):
    command = [sys.executable, "-m", "keras_unet", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found in done.stdout and not done.stderr


def test_an_import_leaves_standard_output_as_it_is():
    code = "import sys; import keras_unet.console; print(sys.stdout.errors)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("strict", "surrogateescape")
