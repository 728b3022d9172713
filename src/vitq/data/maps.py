"""Folders of images with a map for each: ``images/`` beside ``masks/``, files of equal names."""

from pathlib import Path

from vitq.data.items import ImageItem, ImageSource
from vitq.data.names import shown
from vitq.data.targets import map_in
from vitq.errors import DataError

IMAGES = "images"
MAPS = ("masks", "annotations", "depth", "labels")
"""What the folder beside ``images`` is called."""
WORDS = ("_mask", "_seg", "_depth")
"""What may stand behind the name of a map's image."""


def map_folder(subfolders: list[Path]) -> Path | None:
    """Return the folder of maps where there are just two folders, ``images`` and one of ``MAPS``."""
    names = {entry.name.lower(): entry for entry in subfolders}
    others = [entry for name, entry in names.items() if name != IMAGES]
    pair = IMAGES in names and len(others) == 1 and len(names) == len(subfolders)
    return others[0] if pair and others[0].name.lower() in MAPS else None


def with_maps(source: ImageSource, images: Path, maps: Path) -> ImageSource:
    """Return ``source``, whose items lie in ``images``, with the maps of the same names, whatever their ending.

    A map may have one of ``WORDS`` behind the image's name (``a_mask.png``, ``a_seg.npy``). Raises DataError for an
    image without a map, or with two.
    """
    files = [path for path in sorted(maps.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    known: dict[str, list[Path]] = {}
    for path in files:
        known.setdefault(str(path.relative_to(maps).with_suffix("")), []).append(path)
    items = tuple(_with_map(item, images, maps, known) for item in source.items)
    return ImageSource(f"images and {shown(maps.name)}", items, source.notes)


def _with_map(item: ImageItem, images: Path, maps: Path, known: dict[str, list[Path]]) -> ImageItem:
    assert item.path is not None
    stem = str(item.path.relative_to(images).with_suffix(""))
    found = known.get(stem) or [path for word in WORDS for path in known.get(stem + word, ())]
    if len(found) != 1:
        many = f"{len(found)} maps" if found else "no map"
        raise DataError(f"{item.shown} has {many} of its name in '{shown(maps)}'; each image needs one")
    return ImageItem(item.name, item.read, path=item.path, target=map_in(found[0]))
