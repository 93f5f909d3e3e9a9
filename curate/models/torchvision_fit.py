"""torchvision where its compiled part does not fit the installed torch: its Python part, which is all that we need, works."""

from __future__ import annotations

import sys
from typing import Any

_KEPT: list[Any] = []  # a library's operators vanish with it


def fit_torchvision() -> None:
    """Make `import torchvision` work in this process, if it is installed; to be called before a package that imports it.

    Such a torchvision fails while it describes operators that its compiled part would have declared: two are declared here.
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
