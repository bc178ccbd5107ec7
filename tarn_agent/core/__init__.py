"""Decisions of the agent: pure functions over frozen data. No clock, no socket, no log, no random."""
