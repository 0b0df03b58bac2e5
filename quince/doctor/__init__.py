"""``quince doctor``: what is wrong with this machine, in sentences."""
