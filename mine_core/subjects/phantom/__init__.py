"""The phantom: a subject whose answer is known, made of rendered scenes and planted voxels on a real human cortex."""
