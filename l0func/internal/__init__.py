"""Tools for the whole package: pytrees and their names, a call's context, torch without types."""
