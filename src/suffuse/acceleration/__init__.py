"""Acceleration: plans by which a network does part of its work, on our models and on diffusers' networks."""

from typing import Annotated

from suffuse.acceleration.apply import applied
from suffuse.acceleration.caches import FirstBlockCache, ResidualReuse, Taylor, TeaCache, TokenMerging
from suffuse.acceleration.deepcache import DeepCache
from suffuse.acceleration.encoder_reuse import EncoderReuse
from suffuse.acceleration.held import HeldBlocks
from suffuse.acceleration.layers import Applied
from suffuse.acceleration.macs import BlockMacs, MacCounter, block_macs, counted_macs, denoiser_macs
from suffuse.acceleration.none import NoPlan
from suffuse.acceleration.plan import PlanPart
from suffuse.acceleration.region_adaptive import RegionAdaptive
from suffuse.acceleration.timeline import Timeline
from suffuse.base.part import Joint

__all__ = [
    "Applied",
    "BlockMacs",
    "DeepCache",
    "EncoderReuse",
    "FirstBlockCache",
    "HeldBlocks",
    "MacCounter",
    "NoPlan",
    "Plan",
    "PlanPart",
    "RegionAdaptive",
    "ResidualReuse",
    "Taylor",
    "TeaCache",
    "Timeline",
    "TokenMerging",
    "applied",
    "block_macs",
    "counted_macs",
    "denoiser_macs",
]

Plan = Annotated[
    PlanPart,
    Joint(
        "plan",
        NoPlan,
        DeepCache,
        EncoderReuse,
        ResidualReuse,
        Taylor,
        FirstBlockCache,
        TeaCache,
        RegionAdaptive,
        TokenMerging,
        HeldBlocks,
    ),
]
