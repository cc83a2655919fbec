"""Files in, Zarr stores out: from a scan to degraded pairs. Nothing here imports torch or click."""
