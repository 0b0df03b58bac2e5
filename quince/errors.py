"""Every error that Quince raises on purpose.

QuinceError
├── RequestError                  the client's fault: 4xx
│   ├── InvalidRequest            400  a parameter that is wrong or cannot be honoured
│   │   └── ContextLengthExceeded 400  prompt (and answer) longer than the model's context
│   ├── InvalidApiKey             401  none or a wrong one
│   ├── ModelNotFound             404
│   ├── BodyTooLarge              413
│   ├── QueueFull                 429  try again later
│   └── RequestCancelled          499  ended by /v1/cancel before it was done
├── QueueTimeout                  504  waited longer than --queue-timeout
├── EngineError                   500  one request failed inside the engine, the engine goes on
├── EngineUnavailable             503  loading, restarting, dead or shutting down
├── ModelLoadError                503  the model cannot be loaded; says why
└── UsageError                    the command line's: one sentence on stderr, exit code 1

``server.errors`` maps the tree to HTTP once, ``cli.errors`` to a sentence once.
"""

from __future__ import annotations


class QuinceError(Exception):
    """Base of the tree. ``str(error)`` is a sentence meant for the user."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class RequestError(QuinceError):
    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    pass


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class InvalidApiKey(RequestError):
    status = 401
    code = "invalid_api_key"


class ModelNotFound(RequestError):
    status = 404
    code = "model_not_found"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class QueueFull(RequestError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class RequestCancelled(RequestError):
    status = 499
    code = "cancelled"


class QueueTimeout(QuinceError):
    status = 504
    type = "timeout_error"
    code = "queue_timeout"


class EngineError(QuinceError):
    code = "engine_error"


class EngineUnavailable(QuinceError):
    status = 503
    type = "service_unavailable_error"
    code = "engine_unavailable"


class ModelLoadError(EngineUnavailable):
    code = "model_load_failed"


class UsageError(QuinceError):
    pass
