"""Sampling: grids, solvers, guidance and the one loop."""
