"""Photographs a report for the documents: `python docs/screenshot.py RUN/report.html PICTURE.png`.

Chromium does it, without a window; `docs/figures/report.png` shows the report of `make demo`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1100, 3150
COLORS = 160  # of the palette: small files


def photograph(report: Path, picture: Path, height: int = HEIGHT) -> Path:
    """Writes the upper `height` pixels of the page as a PNG with a palette."""
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        raise SystemExit("Chromium is absent: apt-get install chromium")
    flags = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium has none for root
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "page.png"
        flags += [f"--window-size={WIDTH},{height}", f"--screenshot={whole}"]
        subprocess.run([program, *flags, report.resolve().as_uri()], check=True, timeout=120)
        with Image.open(whole) as shot:
            kept = Image.Quantize.MAXCOVERAGE  # a legend's few pixels keep their colours
            small = shot.convert("RGB").quantize(COLORS, kept, dither=Image.Dither.NONE)
            small.save(picture, optimize=True)
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, default=HEIGHT)
    options = parser.parse_args()
    made = photograph(options.report, options.picture, options.height)
    print(f"{made}: {made.stat().st_size / 1000:.0f} kB")
