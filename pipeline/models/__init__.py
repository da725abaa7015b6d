"""Models: everything that is loaded or served."""
