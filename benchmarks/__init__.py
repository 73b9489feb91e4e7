"""Side by side with peers, ratios within one run. `python -m benchmarks.run` writes RESULTS.md."""
