"""What is learned from: numbers as tokens, random matrices, the tasks and their exact solutions."""
