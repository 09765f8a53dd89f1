"""Image and text in one joint space: the vision-language models that features are made of."""
