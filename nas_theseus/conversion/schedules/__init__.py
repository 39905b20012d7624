"""In which stages the blocks of a target are aligned with the guide: one file a schedule.

Source of the first four and of the controls: Network of Theseus, arXiv:2512.04198, figures 1 and 2.
"""
