"""What the single-file binary runs."""

from __future__ import annotations

import multiprocessing

from quince import children

if __name__ == "__main__":
    multiprocessing.freeze_support()  # libraries that use it start this file again, too
    children.main()
