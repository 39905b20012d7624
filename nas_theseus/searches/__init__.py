"""One search: its jobs, what it keeps, its front and further budgets."""
