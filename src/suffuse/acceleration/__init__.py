"""Acceleration: plans by which a network does part of its work, on our models and on diffusers' networks."""

from typing import Annotated

from suffuse.acceleration.applied import applied
from suffuse.acceleration.deepcache import DeepCache
from suffuse.acceleration.encoder_reuse import EncoderReuse
from suffuse.acceleration.layers import Applied
from suffuse.acceleration.macs import BlockMacs, block_macs, counted_macs
from suffuse.acceleration.plan import NoPlan, PlanPart
from suffuse.acceleration.residual import ResidualReuse, Taylor
from suffuse.acceleration.threshold import FirstBlockCache, TeaCache
from suffuse.acceleration.timeline import Timeline
from suffuse.base.part import Joint

__all__ = [
    "Applied",
    "BlockMacs",
    "DeepCache",
    "EncoderReuse",
    "FirstBlockCache",
    "NoPlan",
    "Plan",
    "PlanPart",
    "ResidualReuse",
    "Taylor",
    "TeaCache",
    "Timeline",
    "applied",
    "block_macs",
    "counted_macs",
]

Plan = Annotated[
    PlanPart, Joint("plan", NoPlan, DeepCache, EncoderReuse, ResidualReuse, Taylor, FirstBlockCache, TeaCache)
]
