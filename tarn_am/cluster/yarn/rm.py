"""The conversation of one application attempt with the ResourceManager: register, heartbeat, unregister.

The ResourceManager numbers its answers. A request whose answer was lost is repeated as it was, and is answered with the answer
that was lost, so that nothing is done twice and nothing is missed. After a restart it asks to be registered with again; what
stood is then said again by who keeps it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import structlog
from google.protobuf.message import Message

from tarn_am.cluster.yarn.refusals import Meaning, expected_id, is_hopeless, meaning
from tarn_am.hadoop.credentials import token_of
from tarn_am.hadoop.errors import HadoopError
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import security_pb2, yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_MASTER, RpcProtocol
from tarn_am.ports import ClusterError
from tarn_common.backoff import Backoff

log = structlog.get_logger(__name__)

_BACKOFF = Backoff(first_s=0.2, limit_s=3.0)
_FINISH_PAUSE_S = 0.1
_ID_MASK = 0x7FFFFFFF
Response = TypeVar("Response", bound=Message)


class Caller(Protocol):
    """What is used of a HadoopClient."""

    def use(self, login: Login) -> None: ...

    async def call(
        self, protocol: RpcProtocol, method: str, request: Message, response: type[Response], *, timeout_s: float | None = None
    ) -> Response: ...


class Deposed(Exception):
    """This attempt is over for the ResourceManager: whoever acts for it now, it is not this process."""


@dataclass(frozen=True)
class Presence:
    """How the application is shown: the AM's host, and where its pages are ('' nowhere yet)."""

    host: str
    tracking_url: str = ""


class MasterService:
    """One attempt's ApplicationMasterService. `now` is monotonic time. Calls are made by one task at a time."""

    def __init__(self, client: Caller, login: Login, presence: Presence, call_s: float, now: Callable[[], float]) -> None:
        self._client, self._login, self._presence, self._call_s, self._now = client, login, presence, call_s, now
        self._response_id = 0
        self._unanswered: yarn_services_pb2.AllocateRequestProto | None = None
        self._url_due = False
        self.heard_at: float | None = None
        """When the last answered request was sent; None before the first."""
        self.trouble = ""
        """Why the last attempt had no answer; empty when it had one."""

    @property
    def owes(self) -> yarn_services_pb2.AllocateRequestProto | None:
        """The request that waits for an answer and must be repeated before anything else is said."""
        return self._unanswered

    def show(self, presence: Presence) -> None:
        """The ResourceManager hears of it with the next request."""
        self._presence, self._url_due = presence, True

    async def register(self, give_up_s: float) -> yarn_services_pb2.RegisterApplicationMasterResponseProto | None:
        """Tries until it is done; None when another process of this attempt did. Raises ClusterError after `give_up_s`, and Deposed."""
        end = self._now() + give_up_s
        request = yarn_services_pb2.RegisterApplicationMasterRequestProto(
            host=self._presence.host, rpc_port=-1, tracking_url=self._presence.tracking_url
        )
        failures = 0
        while True:
            began = self._now()
            try:
                answer = await self._client.call(
                    APPLICATION_MASTER,
                    "registerApplicationMaster",
                    request,
                    yarn_services_pb2.RegisterApplicationMasterResponseProto,
                    timeout_s=self._call_s,
                )
            except HadoopError as error:
                what = meaning(error)
                if what is Meaning.REGISTERED:
                    return None
                if what is Meaning.OVER:
                    raise Deposed(str(error)) from error
                if what is not Meaning.LATER or self._now() >= end or (self.heard_at is None and is_hopeless(error)):
                    raise ClusterError(f"the ResourceManager did not register this Application Master: {error}", retry=False) from error
                failures += 1
                self._fail(error)
                await asyncio.sleep(self._pause_s(failures))
            else:
                self._well(began)
                self._response_id, self._unanswered = 0, None
                return answer

    async def say(self, request: yarn_services_pb2.AllocateRequestProto) -> yarn_services_pb2.AllocateResponseProto:
        """One heartbeat. Raises HadoopError; where its meaning is LATER the request is owed, and the next call must repeat it."""
        if self._unanswered is None:
            request.response_id = self._response_id
            if self._url_due:
                request.tracking_url = self._presence.tracking_url
        self._unanswered = request
        began = self._now()
        try:
            answer = await self._client.call(
                APPLICATION_MASTER, "allocate", request, yarn_services_pb2.AllocateResponseProto, timeout_s=self._call_s
            )
        except HadoopError as error:
            self._fail(error)
            if meaning(error) is not Meaning.LATER:
                self._unanswered = None
            raise
        self._well(began)
        self._unanswered, self._response_id = None, answer.response_id
        # One that was shown while this request waited for its answer was not said with it.
        self._url_due = self._url_due and request.tracking_url != self._presence.tracking_url
        if answer.HasField("am_rm_token"):
            self._roll(answer.am_rm_token)
        return answer

    async def resume(self) -> yarn_services_pb2.AllocateResponseProto:
        """Goes on where an earlier process of this attempt ended: finds the number, and hears the last answer once more."""
        while True:
            try:
                return await self._say_patiently()
            except HadoopError as error:
                if (expected := expected_id(error)) is None:
                    raise
                self._response_id = (expected - 1) & _ID_MASK

    async def _say_patiently(self) -> yarn_services_pb2.AllocateResponseProto:
        failures = 0
        while True:
            try:
                return await self.say(self._unanswered or yarn_services_pb2.AllocateRequestProto(progress=0.0))
            except HadoopError as error:
                if meaning(error) is not Meaning.LATER:
                    raise
                failures += 1
                await asyncio.sleep(self._pause_s(failures))

    def expect(self, error: HadoopError) -> None:
        """Takes the number that the ResourceManager's refusal names."""
        self._response_id = expected_id(error) or 0

    async def finish(self, succeeded: bool, diagnostics: str, give_up_s: float) -> bool:
        """Unregisters; whether the ResourceManager has confirmed it."""
        request = yarn_services_pb2.FinishApplicationMasterRequestProto(
            diagnostics=diagnostics,
            tracking_url=self._presence.tracking_url,
            final_application_status=yarn_pb2.APP_SUCCEEDED if succeeded else yarn_pb2.APP_FAILED,
        )
        end = self._now() + give_up_s
        failures = 0
        while self._now() < end:
            try:
                answer = await self._client.call(
                    APPLICATION_MASTER,
                    "finishApplicationMaster",
                    request,
                    yarn_services_pb2.FinishApplicationMasterResponseProto,
                    timeout_s=self._call_s,
                )
            except HadoopError as error:
                what = meaning(error)
                if what is Meaning.OVER:
                    return False
                if what is Meaning.REGISTER:
                    await self.register(end - self._now())
                    continue
                failures += 1
                log.warning("unregister_failed", reason=str(error))
                await asyncio.sleep(self._pause_s(failures))
            else:
                if answer.isUnregistered:
                    return True
                await asyncio.sleep(_FINISH_PAUSE_S)
        return False

    def _roll(self, message: security_pb2.TokenProto) -> None:
        """A new token for connections to come; those that stand go on."""
        token = token_of(message)
        if token != self._login.token:
            self._login = replace(self._login, token=token)
            self._client.use(self._login)
            log.info("am_rm_token_renewed")

    def _well(self, began: float) -> None:
        if self.trouble:
            log.info("resource_manager_answers_again")
        self.heard_at, self.trouble = began, ""

    def _fail(self, error: HadoopError) -> None:
        if meaning(error) is Meaning.LATER:
            if not self.trouble:
                log.warning("resource_manager_does_not_answer", reason=str(error))
            self.trouble = str(error)

    def _pause_s(self, failures: int) -> float:
        return _BACKOFF.delay_s(failures, random.random())  # noqa: S311 - jitter
