"""What an exception of the ResourceManager means for the conversation with it. Pure, one table.

The classes are those of `org.apache.hadoop.yarn.exceptions`; several refusals share one class, so that some rows look at the text.
"""

from __future__ import annotations

import re
from enum import Enum

from tarn_am.hadoop.errors import AuthenticationError, HadoopError, NotHadoop, RemoteError, TooLarge


class Meaning(Enum):
    LATER = "no answer, or not now: say the same again"
    REGISTER = "it does not know this attempt as registered: it was restarted"
    REGISTERED = "it has this attempt as registered: this process is its second"
    OTHER_ID = "it expects another response id"
    NO_TAGS = "it takes no scheduling requests"
    BAD_ASK = "it will not serve such asks"
    BAD_LIST = "it will not take the blacklist or a release"
    OVER = "this attempt is over for it"


_BY_TEXT = (
    (re.compile(r"is already registered"), Meaning.REGISTERED),
    (re.compile(r"expect responseId to be \d+"), Meaning.OTHER_ID),
    (re.compile(r"cannot handle placement constraints"), Meaning.NO_TAGS),
    (re.compile(r"doesn't exist in cache"), Meaning.OVER),
)
_BY_KIND = {
    "ApplicationMasterNotRegisteredException": Meaning.REGISTER,
    "ApplicationAttemptNotFoundException": Meaning.OVER,
    "ApplicationNotFoundException": Meaning.OVER,
    "InvalidToken": Meaning.OVER,
    "InvalidResourceBlacklistRequestException": Meaning.BAD_LIST,
    "InvalidContainerReleaseException": Meaning.BAD_LIST,
    "StandbyException": Meaning.LATER,
    "RetriableException": Meaning.LATER,
}


def meaning(error: HadoopError) -> Meaning:
    if isinstance(error, RemoteError):
        for pattern, found in _BY_TEXT:
            if pattern.search(error.message):
                return found
        known = _BY_KIND.get(error.kind)
        if known is not None:
            return known
        # What closed the connection was about who we are; all else was about what was asked.
        return Meaning.LATER if error.fatal else Meaning.BAD_ASK
    return Meaning.LATER


def expected_id(error: HadoopError) -> int | None:
    """The response id that an OTHER_ID refusal names."""
    found = re.search(r"expect responseId to be (\d+)", str(error))
    return int(found.group(1)) if found else None


def is_hopeless(error: HadoopError) -> bool:
    """Whether trying the same address with the same proof again cannot help at the first attempt."""
    return isinstance(error, (NotHadoop, AuthenticationError, TooLarge)) or (isinstance(error, RemoteError) and error.unauthorized)
