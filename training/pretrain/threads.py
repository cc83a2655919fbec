"""The number of CPU threads for a network: one per core, or one if two are slower."""

#: Values in the first convolution's output of a 2D batch below which one thread is faster than two.
ONE_THREAD_BELOW = 400_000


def computing_threads(
    network: str, width: int, size: tuple[int, ...], batch_size: int, available: int
) -> int:
    """Return how many of the `available` threads a network should compute with.

    Threads wait passively (`cli.train`), so each operation, about 400 per step of `unet2d`, wakes them again.
    Images per second while other threads read batches, best of 3 to 6 interleaved rounds on two cores
    that also had other work:

        unet2d, width 8, 32 of 64 x 64      262,144 values   one thread 243   two 146   two that spin 56
        unet2d, width 16, 16 of 96 x 96     589,824          29               51
        unet2d, width 64, 16 of 64 x 64   1,048,576          15               21
        unet3d, width 4, 8 of 24 x 24 x 16                   15               20
        unet3d, width 8, 8 of 32 x 32 x 16                   10.5             10.1      4.9

    Spinning threads are the fastest on idle cores (unet2d: 380 against 247 and 201), and by far the slowest
    on shared ones; so they are only used if OMP_WAIT_POLICY=active and OMP_NUM_THREADS are set.

    Args:
        network: name of the network.
        width: channels of its first convolution.
        size: edges of a cube or image.
        batch_size: cubes per batch, at most.
        available: threads that there are cores for.
    """
    if network != "unet2d":
        return available
    across, down = size
    values = batch_size * width * (across // 2) * (down // 2)  # the first convolution halves the edges
    return 1 if values < ONE_THREAD_BELOW else available
