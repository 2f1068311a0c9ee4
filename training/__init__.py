"""How the shipped weights were made: procedural scenes, losses, loop, evaluation. No robot needs any of it."""
