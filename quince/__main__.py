"""``python -m quince`` is the ``quince`` command."""

from __future__ import annotations

from quince.cli.main import main

if __name__ == "__main__":
    main()
