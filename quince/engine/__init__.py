"""The engine: tokens in, tokens out. Nothing in here knows text, JSON or HTTP.

``client``, ``supervisor``, ``ipc`` and ``messages`` are the API process's side; the rest runs in the engine process.
"""
