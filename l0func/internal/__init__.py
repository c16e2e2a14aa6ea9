"""Tools for every wing: pytrees and their names, a call's context, torch without types."""
