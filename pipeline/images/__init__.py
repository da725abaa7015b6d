"""Image files and pictures made of them."""
