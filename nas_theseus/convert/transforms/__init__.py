"""Function-preserving transforms: wider and deeper networks that compute what they did before."""

from nas_theseus.convert.transforms.lineage import Lineage
from nas_theseus.convert.transforms.widening import narrow, widen

__all__ = ["Lineage", "narrow", "widen"]
