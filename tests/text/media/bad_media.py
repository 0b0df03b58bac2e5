"""What clients may send instead of an image, to a server that reads no files and nothing of its own network."""

from __future__ import annotations

from tests.text.media.pictures import data_url, huge, picture

# URLs, and what their refusal says.
BAD_MEDIA = [
    ("", "no data:"),
    ("a.png", "no data:"),
    ("ftp://example.com/a.png", "no data:"),
    ("javascript:alert(1)", "no data:"),
    ("data:image/png;base64,", "empty"),
    ("data:image/png;base64,!", "base64"),
    (data_url(picture("JPEG", (64, 64))[:400]), "truncated"),
    *((data_url(huge(name)), "50000 x 50000 pixels") for name in ("PNG", "JPEG", "GIF", "WebP", "BMP", "TIFF")),
    (data_url(b"<svg/>", "image/png"), "SVG"),
    (data_url(b"<html>"), "HTML"),
    (data_url(b"%PDF-1.7"), "PDF"),
    ("file:///etc/passwd", "reads no files"),
    ("/etc/passwd", "reads no files"),
    ("/dev/zero", "reads no files"),
    ("file:///etc/../etc/passwd", "'..'"),
    ("http://169.254.169.254/latest/meta-data", "no public address"),
    ("http://127.0.0.1/", "no public address"),
    ("http://localhost/", "no public address"),
    ("https://[::1]/", "no public address"),
    ("http://[::ffff:10.0.0.1]/", "no public address"),
    ("http://2130706433/", "four decimal numbers"),
    ("http://user:password@example.com/", "user name"),
]
