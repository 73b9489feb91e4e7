"""What everything stands on: parts, errors, keyed randomness, conditions, batches, files."""
