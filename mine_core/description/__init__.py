"""What drives a voxel, in words that are scored on stimuli that did not choose them."""
