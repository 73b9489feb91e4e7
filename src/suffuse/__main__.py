"""`python -m suffuse`: what torchrun starts."""

from suffuse.cli import main

if __name__ == "__main__":
    main()
