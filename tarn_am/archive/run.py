"""The archive's entry: `python3 -Es <archive>/run.py MODULE [ARGUMENT…]` runs a module of TARN with the archive's packages.

It is written so that any Python 3 can read it: the node's `python3` may be too old for TARN, and must still be able to say so or
to hand over to a younger one beside it.
"""

import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TRIED = "TARN_ARCHIVE_TRIED"
SETTINGS = 101
"""As in tarn_common/exits.py: the container ends with it when there is no Python to run on."""


def served() -> "list[tuple[int, int]]":
    """The Python versions that the archive has packages for, youngest first, as (3, 11)."""
    names = [name[2:] for name in os.listdir(os.path.join(HERE, "lib")) if name.startswith("cp")]
    return sorted(((int(name[0]), int(name[1:])) for name in names), reverse=True)


def other(versions: "list[tuple[int, int]]") -> "str | None":
    """The path of an interpreter of one of `versions`, or None."""
    for major, minor in versions:
        name = "python" + str(major) + "." + str(minor)
        for directory in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]:
            path = os.path.join(directory, name)
            if directory and os.access(path, os.X_OK):
                return path
    return None


def main() -> None:
    versions = served()
    mine = sys.version_info[:2]
    if mine not in versions:
        found = None if os.environ.get(TRIED) else other(versions)
        if found:
            os.environ[TRIED] = "1"
            os.execv(found, [found, "-Es", *sys.argv])  # noqa: S606
        have = ", ".join(str(major) + "." + str(minor) for major, minor in versions)
        sys.stderr.write(
            "TARN's archive has packages for Python " + have + ", and " + sys.executable + " is Python " + str(mine[0]) + "." + str(mine[1])
            + ": install one of them on the nodes, name it with --python, or build another archive with tarn archive --python\n"
        )  # fmt: skip
        sys.exit(SETTINGS)
    os.environ.pop(TRIED, None)
    paths = [os.path.join(HERE, "lib", "any"), os.path.join(HERE, "lib", "cp" + str(mine[0]) + str(mine[1]))]
    # For the programs that TARN starts; this one finds its modules through sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PYTHONNOUSERSITE"] = "1"
    sys.path[0:1] = paths
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
