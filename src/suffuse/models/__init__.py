"""Models: a network with its process and conditioners, exact denoisers, and their folders."""
