"""VGGT, the Visual Geometry Grounded Transformer: images of a scene to cameras, depth and points.

Start reading at vggt.model.
"""

from vggt.config import VGGTConfig
from vggt.model import VGGT
from vggt.output import VGGTOutput
from vggt.streaming import StreamingVGGT
from vggt.weights import load_vggt

__all__ = ['VGGT', 'StreamingVGGT', 'VGGTConfig', 'VGGTOutput', 'load_vggt']
