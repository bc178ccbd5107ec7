"""Fixtures of the real servers; each lives in a rig of its own and is started once a session, on demand."""

pytest_plugins = [
    "tests.rigs.secrets",
    "tests.rigs.zookeeper",
    "tests.rigs.hadoop",
    "tests.rigs.yarn",
    "tests.rigs.cluster",
    "tests.rigs.yarn_masters",
    "tests.rigs.triton",
]
