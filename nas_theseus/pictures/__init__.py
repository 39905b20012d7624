"""Pictures, drawn by plotly (to explore) and matplotlib (to print)."""
