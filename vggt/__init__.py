"""VGGT, the Visual Geometry Grounded Transformer: images of a scene to cameras, depth and points.

Start reading at vggt.model.
"""

from vggt.config import VGGTConfig
from vggt.model import VGGT
from vggt.output import VGGTOutput

__all__ = ['VGGT', 'VGGTConfig', 'VGGTOutput']
