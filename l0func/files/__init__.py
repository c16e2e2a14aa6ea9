"""Networks on disk and in sparse storage."""
