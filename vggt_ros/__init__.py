"""Turn any RGB camera into 3D for a robot: VGGT windows, depth, clouds and poses for ROS 2."""

__version__ = '0.1.0'
