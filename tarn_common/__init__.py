"""The floor that the Application Master and the agents stand on.

A closed list: what only one of the two uses lives with that one.
"""

__version__ = "0.1.0"
