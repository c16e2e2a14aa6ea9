"""The gate spec, a static plan of the gates on named parameters, and how users describe it."""
