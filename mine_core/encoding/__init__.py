"""From features to predicted responses: ridge encoders, of one or several feature spaces, and their held-out scores."""
