"""From features to predicted responses: ridge encoders and their held-out scores."""
