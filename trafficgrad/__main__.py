"""``python -m trafficgrad``."""

from trafficgrad.cli import main

if __name__ == "__main__":
    main()
