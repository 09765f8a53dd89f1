"""Results to take away, with where they come from: maps, figures, edits. What is written is read back to the same values."""
