"""From real footage to budgets: what the published rule keeps, and what would hold it."""
