"""A bar chart as SVG: groups of bars along the x axis, one colour per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#8a8f98", "#d9622b", "#4a7fb5", "#5b9a68", "#9a6fb0", "#c9a227")
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 64, 48
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#555}.title{font-size:15px;font-weight:600;fill:#222}"
    ".value{font-size:10px;text-anchor:middle}.tick{text-anchor:end}.group{text-anchor:middle}"
)


def bars(title: str, axis: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """``series`` has one value per group; None leaves the bar out."""
    top = _round_up(max((v for values in series.values() for v in values if v is not None), default=1.0))
    plot = HEIGHT - TOP - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        *_legend(list(series)),
        *_grid(top, plot),
    ]
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = 0.8 * slot / max(1, len(series))
    for g, group in enumerate(groups):
        start = LEFT + g * slot + 0.1 * slot
        for s, values in enumerate(series.values()):
            parts += _bar(start + s * width, width, values[g], top, COLOURS[s % len(COLOURS)])
        parts.append(f'<text class="group" x="{start + 0.4 * slot:.1f}" y="{HEIGHT - 28}">{escape(group)}</text>')
    parts.append(f'<text class="group" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{escape(axis)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _bar(x: float, width: float, value: float | None, top: float, colour: str) -> list[str]:
    if value is None:
        return []
    height = (HEIGHT - TOP - BOTTOM) * value / top
    y = HEIGHT - BOTTOM - height
    middle = x + width / 2
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{0.92 * width:.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>',
        f'<text class="value" x="{middle:.1f}" y="{y - 4:.1f}">{value:.0f}</text>',
    ]


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], float(LEFT)
    for index, name in enumerate(names):
        parts.append(f'<rect x="{x:.0f}" y="36" width="12" height="12" rx="2" fill="{COLOURS[index % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="46">{escape(name)}</text>')
        x += 36 + 7 * len(name)
    return parts


def _grid(top: float, plot: float) -> list[str]:
    parts = []
    for step in range(5):
        y = HEIGHT - BOTTOM - plot * step / 4
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e3e5e8"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}">{top * step / 4:g}</text>')
    return parts


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten, so that quarters are round."""
    scale = 1.0
    while scale * 8 < value:
        scale *= 10
    return next(scale * step for step in (0.8, 1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8) if scale * step >= value)
