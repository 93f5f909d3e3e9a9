"""BLIP models with random weights, saved as checkpoints in the hub's format: what parity is tested and speed is measured with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

TOKENIZER = Path(__file__).parent.parent / "curate" / "models" / "mini" / "minilm-tokenizer.json"
"""The word pieces of bert-base-uncased, which BLIP uses too."""

SMALL = {
    "image_text_hidden_size": 32,
    "vision": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64},
    "text": {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4},
}
EQUAL = {
    "vision": {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 96},
    "text": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 6},
}
COARSE = {
    "image_text_hidden_size": 16,
    "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 128,
               "patch_size": 32, "layer_norm_eps": 1e-3},
    "text": {"hidden_size": 80, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
             "layer_norm_eps": 1e-5},
}  # fmt: skip
"""Shapes in which nothing that may differ is equal by chance: widths, heads, sides, patches, epsilons."""


def transformers() -> Any:
    """Import transformers' BLIP."""
    from curate.models.torchvision_fit import fit_torchvision

    fit_torchvision()
    from transformers.models import blip

    return blip


def configured(shape: dict[str, Any]) -> Any:
    """Return transformers' config of a shape."""
    text = {**shape["text"], "encoder_hidden_size": shape["vision"]["hidden_size"]}
    shared = {name: value for name, value in shape.items() if name not in ("vision", "text")}
    return transformers().BlipConfig(text_config=text, vision_config=shape["vision"], **shared)


def save(folder: Path, shape: dict[str, Any], kind: str, spread: float = 1.5) -> Any:
    """Write a random checkpoint of a captioner or a matcher and return transformers' model of it.

    `spread` is that of the weights, times the width's root: at 1 and more, small differences grow from layer to layer.
    """
    import torch

    name = {"captioner": "BlipForConditionalGeneration", "matcher": "BlipForImageTextRetrieval"}[kind]
    torch.manual_seed(1)
    model = getattr(transformers(), name)(configured(shape)).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(0, min(0.2, spread * value.shape[-1] ** -0.5))
            else:
                value.normal_(1.0 if "norm" in parameter.lower() and parameter.endswith("weight") else 0.0, 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    return model
