"""Files in, Zarr stores out: the part of the journey from a scan to degraded pairs.

    scan -> cube -> pair [-> batch -> weights -> evidence]

`scans` finds and reads what a user has, `place` decides where it may be cut, `extract` cuts cubes into a
cube store, `degrade` makes a degraded twin of every cube in a pair store. `stores` is the format of both,
`ledger` keeps unfinished work apart from finished work, and `engine` is the one place that knows dask.
Nothing here imports torch or click.
"""

__version__ = "0.1.0"
