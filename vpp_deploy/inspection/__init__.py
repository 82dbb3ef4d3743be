"""What a bundle, an engine, a checkpoint or a recipe is, found out without running it."""
