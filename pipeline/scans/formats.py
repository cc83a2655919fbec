"""What files of scans are called, and how the voxels of each format are stored."""

from pathlib import Path

from genesis_toolkit.pipeline.scans.dicom import DICOM_SUFFIXES
from genesis_toolkit.pipeline.scans.gate import unsupported
from genesis_toolkit.pipeline.scans.metaimage import files_of_meta_image, stored_meta_image
from genesis_toolkit.pipeline.scans.nifti import NIFTI, read_nifti_header
from genesis_toolkit.pipeline.scans.nrrd import files_of_nrrd, stored_nrrd
from genesis_toolkit.pipeline.scans.stored import Stored

#: What files of each format are called.
META_IMAGE = (".mhd", ".mha")
NRRD = (".nrrd", ".nhdr")

#: What a scan's file may be called.
SUFFIXES = (*META_IMAGE, *NIFTI, *NRRD)


#: What a file with one X-ray image may be called.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def stem_of(path: str) -> str:
    """A path without the suffix of a scan or an image; as it is where it has none."""
    known = (*SUFFIXES, *IMAGE_SUFFIXES, *DICOM_SUFFIXES)
    suffix = max((one for one in known if path.lower().endswith(one)), key=len, default="")
    return path[: len(path) - len(suffix)]


def stored_at(path: Path) -> Stored:
    """How the voxels of a scan's file are stored.

    Raises:
        DataError: its name is of no format that is read, its header says nothing certain, its data lie
            outside its folder or are missing, or they are stored in a way that is not read.
    """
    name = path.name.lower()
    if name.endswith(META_IMAGE):
        return stored_meta_image(path)
    if name.endswith(NIFTI):
        return read_nifti_header(path).stored
    if name.endswith(NRRD):
        return stored_nrrd(path)
    raise unsupported(f"its name ends in none of {', '.join(SUFFIXES)}", "give the folder of a DICOM series")


def files_of(path: Path) -> list[Path]:
    """The files that a scan is made of, header first.

    Raises:
        DataError: its header cannot be read, or points out of its folder.
    """
    name = path.name.lower()
    if name.endswith(META_IMAGE):
        return files_of_meta_image(path)
    return files_of_nrrd(path) if name.endswith(NRRD) else [path]


def read_by_us(path: Path) -> bool:
    """Whether threads suit the reading of a scan: of MetaImages, of which SimpleITK reads a simple header."""
    return path.name.lower().endswith(META_IMAGE)
