"""Bringing an application to YARN: what is asked for, checked against the cluster, staged, submitted, or taken back whole."""
