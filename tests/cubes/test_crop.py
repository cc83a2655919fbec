import numpy as np

from genesis_toolkit.pipeline.cubes.crop import draw_crops


def test_crops_are_distinct_and_uniform() -> None:
    words = np.random.default_rng(3).integers(0, 2**32, 2 * 64 * 4000, dtype=np.uint32)
    drawn = draw_crops((7, 5), (4, 3), 12, words)
    assert sorted(map(tuple, drawn.tolist())) == [(x, y, 0) for x in range(4) for y in range(3)]
    counts = np.zeros((4, 3))
    for start in range(0, 2 * 4000, 2):
        x, y, _ = draw_crops((7, 5), (4, 3), 1, words[start : start + 2])[0]
        counts[x, y] += 1
    assert ((counts - 4000 / 12) ** 2).sum() / (4000 / 12) < 31.3  # chi-square, 11 degrees, p = 0.001
