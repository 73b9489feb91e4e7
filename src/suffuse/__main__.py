"""`python -m suffuse`: what torchrun starts."""

from suffuse.cli import main

main()
