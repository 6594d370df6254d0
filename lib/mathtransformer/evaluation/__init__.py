"""What a model answers, and how good that is."""
