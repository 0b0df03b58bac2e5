"""Health, figures and cancelling."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from quince.server import figures
from quince.server.dependencies import State, json_response
from quince.server.protocol.operations import MlxStatus, QueueStats, Stats

router = APIRouter(tags=["Operations"])


class CancelRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    request_id: str | None = None


@router.get("/health", response_model=None)
async def health(state: State) -> Response:
    """200 when requests can be served, 503 with the reason when not."""
    healthy, reason = state.manager.health()
    body = {
        "status": "ok" if healthy else "unavailable",
        "reason": reason,
        "models": {
            model.name: {
                "state": model.engine.state.value,
                "restarts": model.engine.restarts,
                "last_error": model.engine.last_error.message if model.engine.last_error else None,
            }
            for model in state.manager.models
        },
    }
    return json_response(body, status=200 if healthy else 503, **({} if healthy else {"Retry_After": "2"}))


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, state: State) -> Response:
    """All figures, for Prometheus."""
    from quince.server import prometheus  # takes long, and most servers are never scraped

    body, content_type = prometheus.scrape(state.metrics, state.manager, request.headers.get("accept", ""))
    return Response(body, media_type=content_type)


@router.get("/stats")
async def stats(state: State) -> Stats:
    """What runs and what waits, and the scheduler's and the cache's figures, of every engine and in all."""
    return figures.stats(state)


@router.get("/v1/queue/stats")
async def queue_stats(state: State) -> QueueStats:
    """What runs and what waits, and what the requests so far have come to."""
    return figures.queue_stats(state)


@router.get("/v1/mlx/status")
async def mlx_status(state: State) -> MlxStatus:
    """Device, memory, models and versions."""
    return figures.mlx_status(state)


@router.post("/v1/cancel", response_model=None)
async def cancel(state: State, body: CancelRequest | None = None) -> Response:
    """End one request by its id, or all of them without one. Unknown ids are none of ours: the list is empty."""
    wanted = None if body is None or body.request_id is None else [body.request_id]
    return json_response({"cancelled": state.manager.abort(wanted)})
