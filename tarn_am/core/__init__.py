"""Decisions of the Application Master: pure functions over frozen data. No clock, no socket, no log, no random."""
