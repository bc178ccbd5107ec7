"""Limits of the agent stream that both sides keep."""

PROTOCOL = 1
MAX_MESSAGE_BYTES = 1 << 20
MAX_LOG_LINE_CHARS = 4096
MAX_LOG_LINES_PER_MESSAGE = 200
TLS_NAME = "tarn-am"
"""The name in the AM's certificate: an agent checks it against the certificate that it was given, not against DNS."""
