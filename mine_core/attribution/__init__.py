"""Where in an image a predicted response comes from."""
