"""Textual inversion: networks φ that map an image to pseudo-words of CLIP's text space."""
