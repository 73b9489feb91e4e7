"""Uses of a trained model: evaluate, compare."""
