"""Hadoop IPC version 9 in layers: frames, SASL and the session are pure; the connection owns a socket, the client its addresses."""
