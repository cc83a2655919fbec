"""Finds the X-ray images in any folder: PNG and JPEG by name, DICOM of CR or DX by header."""

from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.dicom import DICOM_SUFFIXES, read_header
from genesis_toolkit.pipeline.scans.files import HERE, Aside, bad_name, shown, walk, within
from genesis_toolkit.pipeline.scans.find import NO_SUBSET, Found, check_source
from genesis_toolkit.pipeline.scans.formats import IMAGE_SUFFIXES, stem_of
from genesis_toolkit.pipeline.scans.nih import ImageSource
from genesis_toolkit.pipeline.scans.radiographs import MODALITIES

_INDEX = "the index of a disc"


def find_image_folder(source: Path | str) -> Found:
    """Find the X-ray images of a folder, searched recursively; or take the one file given.

    An image's identifier is its path without the suffix. Files without a suffix are checked for DICOM.

    Args:
        source: the folder, or a file; an empty text is refused.

    Raises:
        CallError: the folder does not exist, cannot be opened, or holds no image.
    """
    root, alone = check_source(source)
    files: dict[str, list[str]] = {HERE: [root.name]} if alone else {}
    aside: dict[str, Aside] = {}
    if alone:
        root = root.parent
    else:
        files, aside = walk(root, IMAGE_SUFFIXES)
    sources = [
        one
        for folder, names in files.items()
        for name in names
        if (one := _image(root, within(folder, name), name.lower())) is not None
    ]
    taken = {one.path for one in sources}
    for path, why in aside.items():
        if shown(path) not in taken:
            sources.append(_source(path, why.problem, why.skip))
    if not sources:
        kinds = f"{', '.join(IMAGE_SUFFIXES)} and DICOM of {' or '.join(MODALITIES)}"
        raise CallError(f"There is no X-ray image in {root}: searched for {kinds}, including subfolders.")
    ordered = sorted(sources, key=lambda one: one.path.split("/"))
    return Found(root, "images", tuple(ordered))


def _image(root: Path, path: str, name: str) -> ImageSource | None:
    """Return a file as an image, also if it is one that cannot be read; None for other kinds of files."""
    problem = bad_name(f"{root}/{path}")
    if name.endswith(IMAGE_SUFFIXES):
        return _source(path, problem)
    named = name.endswith(DICOM_SUFFIXES)
    if not (named or "." not in name):
        return None
    try:
        header = read_header(root / path)
    except DataError as error:
        return _source(path, problem or str(error)) if named else None
    if header is None:
        return (
            _source(path, problem or "the file has a DICOM file name but another format") if named else None
        )
    if header.skip.startswith(_INDEX):
        return None
    skip = ""
    if header.modality not in MODALITIES:
        modality = header.modality or "not given"
        skip = f"the DICOM modality is {modality}; only {' or '.join(MODALITIES)} is read"
    return _source(path, "" if skip else problem, skip, header.whose)


def _source(path: str, problem: str = "", skip: str = "", whose: int = 0) -> ImageSource:
    place = shown(path)
    return ImageSource(stem_of(place), NO_SUBSET, place, problem, skip, whose)
