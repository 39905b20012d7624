"""Schedules, one file each: the stages in which the blocks of a target are aligned with the guide.

Source of the schedules and ablations: Network of Theseus, arXiv:2512.04198, figures 1 and 2.
"""
