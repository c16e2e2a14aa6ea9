"""A network's time on this machine: measured by layer on smaller copies, for a latency table."""
