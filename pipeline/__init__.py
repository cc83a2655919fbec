"""Files in, Zarr stores out: the part of the journey from a scan to degraded pairs.

    scan -> cube -> pair [-> batch -> weights -> evidence]

`find` finds what a user has, `scans` reads it, `place` decides where it may be cut, `cut` cuts one scan and
`extract` all of them into a cube store; `nih`, `images` and `cut_images` do the same for X-ray images.
`degrade` makes a degraded twin of every cube in a pair store, `targets` cuts labelled cubes. `stores` is the
format, `ledger` keeps unfinished work apart from finished work, `engine` runs tasks and `cluster` is the one
place that knows dask. Nothing here imports torch or click.
"""

__version__ = "0.1.0"
