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
│   └── ModelLoadError            503  the model cannot be loaded; says why
│       └── InsufficientMemory    503  it does not fit the memory budget; says the numbers
├── StoreError                    400  what is asked of the models on disk cannot be done
│   ├── InvalidModel              400  files that are missing or broken; names them
│   ├── ConvertError              400  the converter refused the model; says why
│   └── PullError                 502  a download failed
│       ├── RepositoryNotFound    404
│       ├── AccessDenied          403  wrong token, private or gated
│       ├── DiskFull              507
│       └── PullCancelled         499  by its client or Ctrl-C
├── RemoteError                   the chat client's: what another server answered, or that it does not
└── UsageError                    the command line's: one sentence on stderr, exit code 1
    └── WrongOption               an option that cannot be, or not with another: exit code 2

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
        # Names that come from a request may hold what no answer can: halves of surrogate pairs.
        self.message = message.encode(errors="replace").decode()
        self.param = None if param is None else param.encode(errors="replace").decode()
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


class InsufficientMemory(ModelLoadError):
    code = "insufficient_memory"


class StoreError(QuinceError):
    status = 400
    type = "invalid_request_error"


class InvalidModel(StoreError):
    code = "invalid_model"


class ConvertError(StoreError):
    code = "conversion_failed"


class PullError(StoreError):
    status = 502
    type = "server_error"
    code = "pull_failed"


class RepositoryNotFound(PullError):
    status = 404
    type = "invalid_request_error"
    code = "repository_not_found"


class AccessDenied(PullError):
    status = 403
    type = "invalid_request_error"
    code = "access_denied"


class DiskFull(PullError):
    status = 507
    code = "disk_full"


class PullCancelled(PullError):
    status = 499
    code = "cancelled"

    def __init__(self, message: str = "the pull was cancelled; what has come is kept for the next one") -> None:
        super().__init__(message)


class RemoteError(QuinceError):
    pass


class UsageError(QuinceError):
    pass


class WrongOption(UsageError):
    pass
