"""What a brain saw and how it answered: the phantom, published recordings, and your own."""
