"""The ``quince`` command, one file per command group."""
