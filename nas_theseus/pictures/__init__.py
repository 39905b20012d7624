"""Plots, drawn with plotly (interactive) and matplotlib (for print)."""
