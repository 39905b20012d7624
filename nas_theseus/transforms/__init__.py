"""Transforms that make networks wider and deeper without changing their outputs, or narrower."""

from nas_theseus.transforms.deepening import Residual, deepen, make_identity
from nas_theseus.transforms.fewer_channels import FewerChannels
from nas_theseus.transforms.larger_kernel import enlarge_kernel
from nas_theseus.transforms.lineage import Lineage
from nas_theseus.transforms.narrow_stream import NarrowStream
from nas_theseus.transforms.parts import Deeper, Narrower, Wider, widen_all
from nas_theseus.transforms.properties import properties, properties_table
from nas_theseus.transforms.widening import narrow, widen
from nas_theseus.transforms.zero import zero_initialise

__all__ = [
    "Deeper",
    "FewerChannels",
    "Lineage",
    "NarrowStream",
    "Narrower",
    "Residual",
    "Wider",
    "deepen",
    "enlarge_kernel",
    "make_identity",
    "narrow",
    "properties",
    "properties_table",
    "widen",
    "widen_all",
    "zero_initialise",
]
