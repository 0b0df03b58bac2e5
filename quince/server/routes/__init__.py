"""The routes, one file per API. A route fits on a screen: parse, call, translate."""
