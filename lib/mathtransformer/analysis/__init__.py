"""What notebooks are made of: stored answers, tables and plots, a look inside a model."""
