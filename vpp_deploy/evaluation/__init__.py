"""How well a model does on a labelled dataset: its reader, the evaluator, and running one."""
