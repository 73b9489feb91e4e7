"""What a run was trained with: versions and hardware."""

from __future__ import annotations

import platform

import torch

import suffuse
from suffuse.base.hardware import processor
from suffuse.training.world import World

__all__ = ["environment"]


def environment(world: World) -> dict[str, object]:
    """Versions and hardware, so that a figure can be understood later."""
    name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else processor()
    return {
        "format_version": 1,
        "suffuse": suffuse.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": world.device.type,
        "device_name": name,
        "processes": world.size,
        "threads": torch.get_num_threads(),
    }
