"""What a submission can fail of, in sentences: the cluster's Java exceptions translated, each with what to do."""

from __future__ import annotations

import re

from tarn_am.cluster.yarn.convert import no_control
from tarn_am.hadoop.errors import AuthenticationError, HadoopError, NotHadoop, RemoteError, Unreachable


class SubmissionError(Exception):
    """The submission cannot go on, and has taken back what it had begun. One sentence with the cause and the fix."""


_BY_KIND = {
    "SafeModeException": "HDFS is in safe mode and takes no files: wait until it leaves it, or have it left (hdfs dfsadmin -safemode leave)",
    "NSQuotaExceededException": "HDFS's quota of names is used up there: delete files, have it raised, or give another --staging-dir",
    "DSQuotaExceededException": "HDFS's quota of space is used up there: delete files, have it raised, or give another --staging-dir",
    "QuotaByStorageTypeExceededException": "HDFS's quota of its storage type is used up there: have it raised, or give another --staging-dir",
    "ParentNotDirectoryException": "a part of that path is a file: give another --staging-dir",
    "FileAlreadyExistsException": "a part of that path is a file: give another --staging-dir",
}
_DENIED = re.compile(r'Permission denied: user=(\S+), access=(\w+), inode="([^"]*)"')


def of_rm(error: HadoopError, what: str) -> SubmissionError:
    """`what` tells what was being done: 'to submit'."""
    if isinstance(error, RemoteError) and error.kind == "StandbyException":
        return SubmissionError(
            f"the ResourceManager is in standby ({error}): name its partner too, with yarn.resourcemanager.ha.enabled and rm-ids in yarn-site.xml"
        )
    if isinstance(error, Unreachable):
        return SubmissionError(
            f"the ResourceManager cannot be reached {what} ({_short(error)}): is it up, and is yarn.resourcemanager.address in yarn-site.xml right?"
        )
    if isinstance(error, NotHadoop):
        return SubmissionError(
            f"what answers is no ResourceManager ({_short(error)}): correct yarn.resourcemanager.address in yarn-site.xml"
        )
    if isinstance(error, AuthenticationError):
        return SubmissionError(f"the ResourceManager does not take us ({_short(error)}): is there a valid ticket (klist, kinit)?")
    return SubmissionError(f"the ResourceManager refused {what}: {_short(error)}")


def of_hdfs(error: HadoopError, url: str) -> SubmissionError:
    """`url` is what was being written."""
    if isinstance(error, RemoteError):
        return by_kind(error.kind, error.message, url)
    if isinstance(error, Unreachable):
        return SubmissionError(
            f"the NameNode of {url} cannot be reached ({_short(error)}): is it up, and is fs.defaultFS in core-site.xml right?"
        )
    if isinstance(error, NotHadoop):
        return SubmissionError(f"what answers is no NameNode ({_short(error)}): correct fs.defaultFS in core-site.xml")
    if isinstance(error, AuthenticationError):
        return SubmissionError(f"the NameNode does not take us ({_short(error)}): is there a valid ticket (klist, kinit)?")
    return SubmissionError(f"{url} cannot be written: {_short(error)}")


def by_kind(kind: str, message: str, url: str) -> SubmissionError:
    """A Java exception of the NameNode, however it came."""
    if kind in _BY_KIND:
        return SubmissionError(f"{url} cannot be written: {_BY_KIND[kind]}")
    if kind == "AccessControlException":
        found = _DENIED.search(message)
        who = f"{found[1]} may not write in {found[3]}" if found else no_control(message, 200)
        return SubmissionError(f"{url} cannot be written ({who}): have your home directory made, or give another --staging-dir")
    return SubmissionError(f"{url} cannot be written: {kind}: {_line(message)}")


def _short(error: HadoopError) -> str:
    return _line(str(error))


def _line(text: str) -> str:
    lines = no_control(text, 400).strip().splitlines()
    return lines[0] if lines else "no reason was given"
