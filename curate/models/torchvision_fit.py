"""torchvision where its compiled part does not match the installed torch: its Python part, which open_clip needs, works.

A CPU build of torch beside the torchvision of the usual index, which is built for CUDA, is such a pair.
"""

from __future__ import annotations

import sys
from typing import Any

_KEPT: list[Any] = []  # the operators exist as long as the library object


def fit_torchvision() -> None:
    """Make `import torchvision` work in this process, if it is installed; call it before importing what imports torchvision.

    Such a torchvision fails when it registers fakes of operators that its compiled part did not declare: this declares two.
    """
    import torch

    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401
