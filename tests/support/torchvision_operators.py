"""Lets torchvision be imported beside another build of torch, which its compiled operators do not fit.

Networks and other libraries need none of them, so they are declared alone, for as long as this module is
loaded. The examples of the docs begin with this file's text.
"""

from contextlib import suppress

import torch

library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    with suppress(RuntimeError):  # it is there
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
