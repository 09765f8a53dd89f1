"""What would change if: edits of an image, matched control edits, and the predicted shift with its null."""
