"""Training: recipes, the trainer, checkpoints, signals."""
