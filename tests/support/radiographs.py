"""X-ray images written the way the world writes them: PNG, JPEG, and DICOM of CR and DX."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def chest(seed: int, shape: tuple[int, int] = (24, 20), most: int = 255) -> NDArray[np.uint16]:
    """Pixels [y, x] of smooth noise from 0 to `most`."""
    coarse = np.random.default_rng(seed).integers(0, most + 1, (shape[0] // 4 + 1, shape[1] // 4 + 1))
    return coarse.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]].astype(np.uint16)


def write_picture(path: Path, pixels: NDArray[Any], **more: Any) -> Path:
    """Write a PNG or JPEG of pixels [y, x], or [y, x, channel]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **more)
    return path


def write_cr(path: Path, pixels: NDArray[np.uint16], modality: str = "CR", **elements: Any) -> Path:
    """A DICOM file of one image of 12 bits, [y, x]; elements by their keywords, None leaves one out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{abs(hash(path.name)) % 10**8}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    told: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": modality,
        "PatientID": "somebody",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    } | elements
    for name, value in told.items():
        if value is not None:
            setattr(one, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)
    return path
