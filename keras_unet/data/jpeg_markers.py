"""Markers of JPEG files, and which kinds of JPEG are read.

Source: ITU-T T.81, table B.1.
"""

FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
READABLE = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # frames: baseline, extended, progressive
COMPONENTS = (1, 3, 4)  # grey, colour, inks
EXPECTED = "8 bits, 1, 3 or 4 components, baseline or progressive"
