"""What leaves the device is what was on it."""

from __future__ import annotations

import numpy as np
import torch

from vggt_ros.core.transfer import gather, spread, to_host


def test_gathered_tensors_come_back_as_they_were():
    random = torch.Generator().manual_seed(0)
    tensors = [torch.rand(3, 9, generator=random), torch.rand(2, 4, 5, generator=random).mT, torch.rand(1)]
    tensors[1][0, 0, 0] = torch.nan
    found = spread(gather(tensors), [one.shape for one in tensors])
    for array, tensor in zip(found, tensors, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.numpy())


def test_lower_precision_arrives_as_float32():
    tensor = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    (found,) = spread(gather([tensor]), [tensor.shape])
    assert found.tolist() == [1.5, -2.25]
    assert to_host([tensor])[0].tolist() == [1.5, -2.25]


def test_on_a_processor_nothing_is_copied():
    tensor = torch.rand(4, 5)
    assert to_host([tensor])[0].ctypes.data == tensor.data_ptr()
