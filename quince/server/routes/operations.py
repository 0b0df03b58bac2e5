"""Health, queue figures and cancelling."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from quince.server.dependencies import State, json_response

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


@router.get("/v1/queue/stats", response_model=None)
async def queue_stats(state: State) -> Response:
    """What runs and what waits, in all and per model; tokens are counted since the engine started."""
    models = {
        model.name: {
            "running": model.engine.stats.running,
            "waiting": model.engine.num_waiting,
            "open_requests": model.engine.num_requests,
            "steps": model.engine.stats.steps,
            "prompt_tokens": model.engine.stats.prompt_tokens,
            "generation_tokens": model.engine.stats.generation_tokens,
            "active_memory": model.engine.stats.active_memory,
            "peak_memory": model.engine.stats.peak_memory,
        }
        for model in state.manager.models
    }
    totals = {name: sum(model[name] for model in models.values()) for name in ("running", "waiting")}
    limits = {"max_running_requests": state.config.max_running_requests, "queue_size": state.config.queue_size}
    return json_response({**totals, **limits, "models": models})


@router.post("/v1/cancel", response_model=None)
async def cancel(state: State, body: CancelRequest | None = None) -> Response:
    """End one request by its id, or all of them without one. Unknown ids are none of ours: the list is empty."""
    wanted = None if body is None or body.request_id is None else [body.request_id]
    cancelled = [name for model in state.manager.models for name in model.engine.abort(wanted)]
    return json_response({"cancelled": cancelled})
