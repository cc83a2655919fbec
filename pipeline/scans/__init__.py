"""A folder of files -> scans in HU, and X-ray images in grey levels."""
