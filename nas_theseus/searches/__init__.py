"""One search: its jobs, results, front and further budgets."""
