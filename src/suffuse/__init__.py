"""suffuse: small, composable, tested parts for diffusion, flow and consistency models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suffuse.models.codec import Codec
    from suffuse.models.config import ModelConfig
    from suffuse.models.denoiser import Denoiser
    from suffuse.models.flow_map import FlowMap
    from suffuse.sampling.loop import sample
    from suffuse.training.recipe_files import load_recipe
    from suffuse.training.run import train

__version__ = "0.1.0"

__all__ = ["Codec", "Denoiser", "FlowMap", "ModelConfig", "__version__", "load_recipe", "sample", "train"]

# Looked up when first asked for: `import suffuse` and the command line's help stay light.
_WHERE = {
    "Codec": "suffuse.models.codec",
    "Denoiser": "suffuse.models.denoiser",
    "FlowMap": "suffuse.models.flow_map",
    "ModelConfig": "suffuse.models.config",
    "load_recipe": "suffuse.training.recipe_files",
    "sample": "suffuse.sampling.loop",
    "train": "suffuse.training.run",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'suffuse' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
