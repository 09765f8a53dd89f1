"""Cortical surfaces laid flat: from pixel to voxel and back, with regions; and a layout for brains without one."""
