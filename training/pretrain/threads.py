"""How many threads a network computes with on the CPU: as many as cores, or one where two are slower."""

#: Values that the first convolution of a 2D batch gives, below which one thread is faster than two.
ONE_THREAD_BELOW = 400_000


def computing_threads(
    network: str, width: int, size: tuple[int, ...], batch_size: int, available: int
) -> int:
    """Return how many of the `available` threads a network computes with.

    Threads wait passively (`cli.train`), so each of the operations, about 400 a step of `unet2d`, wakes them
    anew. Images a second beside the threads that read batches, best of 3 to 6 interleaved rounds on two cores
    that others used as well:

        unet2d, width 8, 32 of 64 x 64      262,144 values   one thread 243   two 146   two that spin 56
        unet2d, width 16, 16 of 96 x 96     589,824          29               51
        unet2d, width 64, 16 of 64 x 64   1,048,576          15               21
        unet3d, width 4, 8 of 24 x 24 x 16                   15               20
        unet3d, width 8, 8 of 32 x 32 x 16                   10.5             10.1      4.9

    Threads that spin are the fastest on cores that nobody else uses (unet2d: 380 against 247 and 201), and
    the slowest by far on others; so they are for those who set OMP_WAIT_POLICY=active and OMP_NUM_THREADS.

    Args:
        network: its name.
        width: channels of its first convolution.
        size: edges of a cube or image.
        batch_size: cubes a batch, at most.
        available: threads that there are cores for.
    """
    if network != "unet2d":
        return available
    across, down = size
    values = batch_size * width * (across // 2) * (down // 2)  # it halves the edges
    return 1 if values < ONE_THREAD_BELOW else available
