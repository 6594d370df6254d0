"""Many trainings, comparisons of recipes, and what a machine can do."""
