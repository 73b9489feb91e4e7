"""Objectives: from a batch to named losses."""
