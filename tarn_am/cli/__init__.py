"""The `tarn` command. `main` is its entry point, which also stands where only the agent's packages are installed."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from tarn_am.cli.main import main as run

        run()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tarn"):
            raise
        print(f"tarn: the package {error.name} is missing: pip install 'tarn[client]'", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # while what it needs was imported; later ones end the verb in its own way
        sys.exit(130)
