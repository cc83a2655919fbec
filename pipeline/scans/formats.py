"""Lists the file formats of scans, and opens the header reader for each."""

from pathlib import Path

from genesis_toolkit.pipeline.scans.dicom import DICOM_SUFFIXES
from genesis_toolkit.pipeline.scans.gate import unsupported
from genesis_toolkit.pipeline.scans.metaimage import files_of_meta_image, stored_meta_image
from genesis_toolkit.pipeline.scans.nifti import NIFTI, read_nifti_header
from genesis_toolkit.pipeline.scans.nrrd import files_of_nrrd, stored_nrrd
from genesis_toolkit.pipeline.scans.stored import Stored

#: Suffixes of each format.
META_IMAGE = (".mhd", ".mha")
NRRD = (".nrrd", ".nhdr")

#: Suffixes of files that hold a scan.
SUFFIXES = (*META_IMAGE, *NIFTI, *NRRD)


#: Suffixes of files that hold an X-ray image.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def stem_of(path: str) -> str:
    """Return a path without its suffix if that belongs to a scan or an image."""
    known = (*SUFFIXES, *IMAGE_SUFFIXES, *DICOM_SUFFIXES)
    suffix = max((one for one in known if path.lower().endswith(one)), key=len, default="")
    return path[: len(path) - len(suffix)]


def stored_at(path: Path) -> Stored:
    """Return how the voxels of a scan's file are stored.

    Raises:
        DataError: its suffix is unknown, its header is ambiguous, its data are missing or outside its folder,
            or they are stored in an unsupported way.
    """
    name = path.name.lower()
    if name.endswith(META_IMAGE):
        return stored_meta_image(path)
    if name.endswith(NIFTI):
        return read_nifti_header(path).stored
    if name.endswith(NRRD):
        return stored_nrrd(path)
    raise unsupported(
        f"the file's suffix is none of {', '.join(SUFFIXES)}", "give the folder of a DICOM series"
    )


def files_of(path: Path) -> list[Path]:
    """Return the files of a scan, header first.

    Raises:
        DataError: its header cannot be read, or names files outside its folder.
    """
    name = path.name.lower()
    if name.endswith(META_IMAGE):
        return files_of_meta_image(path)
    return files_of_nrrd(path) if name.endswith(NRRD) else [path]


def read_by_us(path: Path) -> bool:
    """Return whether threads suit the reading of a scan: MetaImages, whose headers SimpleITK reads fast."""
    return path.name.lower().endswith(META_IMAGE)
