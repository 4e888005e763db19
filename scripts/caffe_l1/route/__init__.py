"""Rewrites the L1 layers of a prototxt from one route's spelling to another's."""
