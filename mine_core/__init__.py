"""MINE: what drives each voxel of a visual cortex, in images and words, and whether it is the cause."""
