"""From options and a seed to a run: a folder with a trained model."""
