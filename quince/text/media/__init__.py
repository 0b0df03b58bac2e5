"""Images and videos that a conversation refers to: from what a client wrote to checked bytes.

``MediaLoader`` is the way in: data URLs (``data_urls``), files in allowed directories (``files``) and web addresses
(``fetch``, which connects only to what ``addresses`` allows). What comes is looked at by its bytes (``formats``,
``image_headers``); nothing here decodes pixels.
"""

from quince.text.media.loader import MediaLimits, MediaLoader
from quince.text.media.references import MediaDetail, MediaItem, MediaKind, MediaReference, check_kinds

__all__ = ["MediaDetail", "MediaItem", "MediaKind", "MediaLimits", "MediaLoader", "MediaReference", "check_kinds"]
