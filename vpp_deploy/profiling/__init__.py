"""How fast a pipeline is, where its time goes, and what that says about pruning."""
