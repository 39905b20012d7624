"""Function-preserving transforms: wider and deeper networks that compute what they did before."""

from nas_theseus.convert.transforms.deepening import Residual, deepen, make_identity
from nas_theseus.convert.transforms.kernels import enlarge_kernel
from nas_theseus.convert.transforms.lineage import Lineage
from nas_theseus.convert.transforms.parts import Deeper, Narrower, Wider, widen_all
from nas_theseus.convert.transforms.properties import properties, properties_table
from nas_theseus.convert.transforms.widening import narrow, widen
from nas_theseus.convert.transforms.zero import zero_initialise

__all__ = [
    "Deeper",
    "Lineage",
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
