"""The orders: `/scale`, `/drain`, `/stop`, `/model`. Each is JSON with exact keys, answered when the fleet has taken it."""

from __future__ import annotations

from typing import Any

import structlog
from aiohttp import web

from tarn_am.api.answers import ApiError, json_answer
from tarn_am.api.call import Access, Call, Route
from tarn_am.api.orders import read_order
from tarn_am.core.model import FleetView
from tarn_am.ports import BadRequest, CommandFailed, Fleet, ModelAction, NotConnected, UnknownInstance
from tarn_common.ids import ContainerId, IdError, container_id

log = structlog.get_logger(__name__)


class Orders:
    """Orders go on to their end even when the one who gave them hangs up."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/scale", Access.ORDER, self.scale),
            Route("POST", "/drain", Access.ORDER, self.drain),
            Route("POST", "/stop", Access.ORDER, self.stop),
            Route("POST", "/model", Access.ORDER, self.model),
        ]

    async def scale(self, call: Call) -> web.StreamResponse:
        wanted = read_order(call.body, {"instances": int})["instances"]
        try:
            view = await self._fleet.scale(wanted, call.who)
        except BadRequest as error:
            raise ApiError(400, str(error)) from error
        log.info("order_scale", wanted=wanted, who=call.who)
        return json_answer(_outcome(view))

    async def drain(self, call: Call) -> web.StreamResponse:
        instance = instance_named(read_order(call.body, {"instance": str})["instance"])
        try:
            view = await self._fleet.drain(instance, call.who)
        except (UnknownInstance, BadRequest, NotConnected, CommandFailed) as error:
            raise fleet_error(error) from error
        log.info("order_drain", container_id=instance, who=call.who)
        return json_answer({**_outcome(view), "instance": instance}, 202)

    async def stop(self, call: Call) -> web.StreamResponse:
        read_order(call.body, {})
        await self._fleet.shut_down(call.who)
        log.info("order_stop", who=call.who)
        return json_answer({"stopping": True}, 202)

    async def model(self, call: Call) -> web.StreamResponse:
        order = read_order(call.body, {"instance": str, "action": str, "model": str})
        instance = instance_named(order["instance"])
        try:
            action = ModelAction(order["action"])
        except ValueError as error:
            raise ApiError(400, f"action is {order['action'][:80]!a}", "give load, unload or reload") from error
        try:
            await self._fleet.model(instance, action, order["model"])
        except (UnknownInstance, BadRequest, NotConnected, CommandFailed) as error:
            raise fleet_error(error) from error
        log.info("order_model", container_id=instance, action=action.value, model=order["model"], who=call.who)
        return json_answer({"instance": instance, "action": action.value, "model": order["model"]})


def instance_named(text: str) -> ContainerId:
    try:
        return container_id(text)
    except IdError as error:
        sentence = str(error) if len(text) <= 80 else f"{text[:77]!a}... is not a container id"
        raise ApiError(400, sentence, "GET /status lists the instances") from error


def fleet_error(error: Exception) -> ApiError:
    """What the fleet's refusal means to the one who asked."""
    if isinstance(error, UnknownInstance):
        return ApiError(404, str(error), "GET /status lists the instances")
    if isinstance(error, NotConnected):
        return ApiError(409, str(error) or "that instance's agent is not connected now", "try again when its agent is back")
    return ApiError(400 if isinstance(error, BadRequest) else 409, str(error))


def _outcome(view: FleetView) -> dict[str, Any]:
    return {
        "wanted": view.counts.wanted,
        "ready": view.counts.ready,
        "min_instances": view.min_instances,
        "max_instances": view.max_instances,
        "version": view.version,
    }
