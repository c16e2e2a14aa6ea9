"""Tools for every wing: pytrees and their names, the context of a call, torch without types."""
