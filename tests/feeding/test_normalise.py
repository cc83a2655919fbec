"""From whole numbers to [0, 1], exact for every code."""

import numpy as np
import torch

from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.training.feeding.normalise import normalise, normalise_by_torch


def test_normalise_is_exact_for_every_code() -> None:
    codes = np.arange(-1000, 1001, dtype=np.int16)
    got = normalise(torch.from_numpy(codes.reshape(-1, 1, 1, 1)), Window()).numpy()
    assert got.shape == (2001, 1, 1, 1, 1)
    assert got.dtype == np.float32
    assert np.array_equal(got.ravel(), ((codes.astype(np.float64) + 1000) / 2000).astype(np.float32))


def test_what_a_device_does_is_exact_for_every_code() -> None:
    """Here on the CPU, as on any other device but for its division (`test_gpu`)."""
    codes = np.arange(-1000, 1001, dtype=np.int16)
    out = torch.full((2001, 1, 1, 1, 1), torch.nan)
    got = normalise_by_torch(torch.from_numpy(codes.reshape(-1, 1, 1, 1)), Window(), out)
    assert got is out
    assert np.array_equal(got.numpy().ravel(), ((codes.astype(np.float64) + 1000) / 2000).astype(np.float32))
    grey = normalise_by_torch(
        torch.tensor([[0, 51, 255]], dtype=torch.uint8), Window(0, 255), out[0, 0, 0].new_empty(1, 1, 3)
    )
    assert grey.tolist() == [[[0.0, np.float32(0.2), 1.0]]]


def test_normalise_takes_any_window_and_dtype() -> None:
    wide = torch.tensor([[-32000, 32000]], dtype=torch.int16)
    assert normalise(wide, Window(-32000, 32000)).tolist() == [[[0.0, 1.0]]]
    grey = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert normalise(grey, Window(0, 255)).tolist() == [[[0.0, np.float32(0.2), 1.0]]]
