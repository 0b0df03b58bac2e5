"""Real ``quince serve`` processes on loopback, spoken to by the official client and by hand-written HTTP."""
