"""Which planes of an OME-TIFF set lie in one of its files, and what they are counted by.

Source: OME-TIFF specification, "Distributing an OME-TIFF data set across multiple files": each file
holds the whole set's OME-XML, in which TiffData names the file of each plane by UUID and FileName.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

AXES = "TZC"


class OwnImage(NamedTuple):
    """The planes of one image of the set that lie in this file.

    name: of the image, "" if it has none. planes: the number of the directory (IFD) of each plane
    by its place along T, Z and C in the whole set.
    """

    name: str
    planes: dict[tuple[int, int, int], int]


def own_images(xml: str, path: Path) -> list[OwnImage] | None:
    """What of an OME-TIFF set lies in the file `path`, whose OME-XML this is.

    None where the XML doesn't say: it is damaged, leaves everything to a companion that isn't
    there, or knows no file by this UUID or name. A renamed file whose XML speaks of one file only
    is that file.
    """
    try:
        root = ElementTree.fromstring(xml)
        uuid = root.get("UUID")
        companion = next((each for each in root if _named(each, "BinaryOnly")), None)
        if companion is not None:
            beside = path.with_name(Path(companion.get("MetadataFile", "")).name or path.name)
            root = ElementTree.fromstring(beside.read_bytes())
        data = list(_planes(root))
    except (ElementTree.ParseError, OSError, ValueError):
        return None
    files = {file for _, _, _, file in data if file is not None}
    mine = {file for file in files if file[0] == uuid}  # a name may have changed
    mine = mine or {file for file in files if file[1].lower() == path.name.lower()}
    mine = files if len(files) == 1 else mine
    images: dict[int, OwnImage] = {}
    for image, name, (place, ifd), file in data:
        if file is None or file in mine:
            images.setdefault(image, OwnImage(name, {})).planes[place] = ifd
    return list(images.values()) or None


_File = tuple[str, str]  # UUID and name
_Plane = tuple[tuple[int, int, int], int]


def _planes(root: ElementTree.Element) -> Iterator[tuple[int, str, _Plane, _File | None]]:
    """Each plane of a set: number and name of its image, place and IFD, and file if it is named."""
    for number, image in enumerate(each for each in root if _named(each, "Image")):
        for pixels in (each for each in image if _named(each, "Pixels")):
            order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in AXES]
            sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in AXES}
            channels = [each for each in pixels if _named(each, "Channel")]
            samples = int(channels[0].get("SamplesPerPixel", 1)) if channels else 1
            sizes["C"] = max(sizes["C"] // samples, 1)
            total = sizes["T"] * sizes["Z"] * sizes["C"]
            for data in (each for each in pixels if _named(each, "TiffData")):
                first = {axis: int(data.get(f"First{axis}", 0)) for axis in AXES}
                start, step = 0, 1
                for axis in order:  # the fastest first
                    start += first[axis] * step
                    step *= sizes[axis]
                alone = "IFD" in data.attrib
                left = max(total - start, 0)  # a count beyond it would be of no plane
                count = min(int(data.get("PlaneCount", 1 if alone else left)), left)
                file = next(
                    (
                        ((each.text or "").strip(), each.get("FileName", ""))
                        for each in data
                        if _named(each, "UUID")
                    ),
                    None,
                )
                for k in range(count):
                    rest, place = start + k, {}
                    for axis in order:
                        rest, place[axis] = divmod(rest, sizes[axis])
                    at = (place.get("T", 0), place.get("Z", 0), place.get("C", 0))
                    yield number, image.get("Name", ""), (at, int(data.get("IFD", 0)) + k), file


def _named(element: ElementTree.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name
