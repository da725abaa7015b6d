"""A folder of one's own images: its index, and queries one at a time."""
