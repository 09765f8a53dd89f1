"""Sparse autoencoders of a backbone's layers, their units matched to voxels, and which layer each voxel is like."""
