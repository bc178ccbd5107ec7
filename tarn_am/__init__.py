"""The Application Master, and the `tarn` command."""

import os

# grpc's core reads this once, when it is first imported; without it every stranger's failed handshake is a line on stderr.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
