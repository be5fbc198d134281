"""The chart of a run: requests per second by color, errors, response time, and when traffic was moved.

It is an SVG to be put inside a page: text stays text, and its colors are CSS variables of the page
(`--ink`, `--muted`, `--grid`, `--blue`, `--green`, `--error`), so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

import io
import math
import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from sebenza_ops.evidence.facts import LatencySample, TimelineEntry, TrafficSample
from sebenza_ops.evidence.summary import SERIES_GAP_SECONDS

Width = Literal["wide", "narrow"]
Points = list[tuple[float, float]]
"""Time in seconds from the chart's origin, and value. A NaN value is a hole: nothing was measured there."""

MARK_LABELS = {"switch": "switch", "switch_back": "switch back", "bake": "bake", "drain": "drain", "host": "host"}

# Stand-ins that matplotlib can draw with; each becomes the CSS variable of its name.
_INKS = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "blue": "#040404",
    "green": "#050505",
    "error": "#060606",
}
# Colors are told apart without seeing color, too: green is dashed.
_DASHES: dict[str, Any] = {"green": (0, (7, 1.2))}
_INCHES = {"wide": 9.2, "narrow": 4.4}
_POINTS_PER_INCH = 72
_LABEL_POINTS_PER_LETTER = 5.6

_drawing = threading.Lock()
"""matplotlib is not thread-safe, and the console renders in a pool of threads."""


def render_chart(
    traffic: Sequence[TrafficSample],
    latency: Sequence[LatencySample],
    marks: Sequence[TimelineEntry],
    origin_seconds: float,
    width: Width = "wide",
) -> str:
    """Draw the chart as an SVG element.

    Args:
        traffic: the series of requests and errors; must not be empty.
        latency: response times; without them the chart has no such panel.
        marks: entries of the timeline that become vertical lines.
        origin_seconds: seconds since the epoch that the time axis calls +0:00, the run's start.
        width: "wide" for a page, "narrow" for a phone.
    """
    with _drawing:
        svg = _draw(traffic, latency, marks, origin_seconds, width)
    return _embeddable(svg, prefix=f"{width}-")


def _draw(
    traffic: Sequence[TrafficSample],
    latency: Sequence[LatencySample],
    marks: Sequence[TimelineEntry],
    origin: float,
    width: Width,
) -> str:
    # Imported here: it takes most of a second, and the console is imported by every task process.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    measured = any(sample.p95_seconds is not None for sample in latency)
    heights = [3.2, 1.1, 1.3] if measured else [3.2, 1.1]
    inches = _INCHES[width]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sebenza-ops", "font.size": 9}):
        figure = Figure(figsize=(inches, 0.9 * sum(heights) + 0.5), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        panels = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        _draw_requests(panels[0], request_rates(traffic, origin))
        _draw_errors(panels[1], error_counts(traffic, origin))
        if measured:
            _draw_latency(panels[2], latency, origin)
        placed = [(entry.at.timestamp() - origin, MARK_LABELS.get(str(entry.mark), str(entry.mark))) for entry in marks]
        _limit_time(panels[-1], traffic, [at for at, _ in placed], origin, ticks=8 if width == "wide" else 4)
        for panel in panels:
            _dress(panel)
        _draw_marks(panels, placed, inches)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return buffer.getvalue()


def request_rates(traffic: Sequence[TrafficSample], origin: float) -> dict[str, Points]:
    """Requests per second by color, all load balancers together, on a grid of whole seconds.

    A sample counts the requests since the load balancer's sample before it, so its rate holds for that whole
    interval; load balancers are sampled at slightly different moments, and only rates can be added. Seconds that
    no sample covers are holes (NaN), not zeros.
    """
    series: dict[tuple[str, str], list[TrafficSample]] = defaultdict(list)
    for sample in traffic:
        series[sample.color, sample.load_balancer].append(sample)
    rates: dict[str, dict[int, float]] = defaultdict(dict)
    for (color, _), samples in sorted(series.items()):
        for start, sample in _intervals(sorted(samples, key=lambda item: item.at)):
            rate = sample.requests / max(sample.at - start, 0.001)
            for second in range(math.ceil(start), math.ceil(sample.at)):
                rates[color][second] = rates[color].get(second, 0.0) + rate
    return {color: _with_holes(by_second, origin) for color, by_second in sorted(rates.items())}


def error_counts(traffic: Sequence[TrafficSample], origin: float) -> dict[str, Points]:
    """Errors (5xx) by color in each second in which there were any; every error is counted once."""
    errors: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for sample in traffic:
        if sample.errors:
            errors[sample.color][math.floor(sample.at)] += sample.errors
    return {
        color: [(second - origin, value) for second, value in sorted(by_second.items())]
        for color, by_second in sorted(errors.items())
    }


def latency_points(samples: Sequence[LatencySample], origin: float) -> Points:
    """A color's response times; where nothing was measured, or nobody looked for a while, there is a hole (NaN)."""
    points: Points = []
    previous: float | None = None
    for sample in sorted(samples, key=lambda item: item.at):
        if previous is not None and sample.at - previous > SERIES_GAP_SECONDS:
            points.append((previous + 1 - origin, math.nan))
        points.append((sample.at - origin, math.nan if sample.p95_seconds is None else sample.p95_seconds))
        previous = sample.at
    return points


def _intervals(samples: Sequence[TrafficSample]) -> list[tuple[float, TrafficSample]]:
    """Each sample with the moment its interval starts; after a hole (or first of all) that is a second before it."""
    if not samples:
        return []
    found = [(samples[0].at - 1.0, samples[0])]
    for earlier, later in pairwise(samples):
        start = earlier.at if later.at - earlier.at <= SERIES_GAP_SECONDS else later.at - 1.0
        found.append((start, later))
    return found


def _with_holes(by_second: dict[int, float], origin: float) -> Points:
    points: Points = []
    previous: int | None = None
    for second, value in sorted(by_second.items()):
        if previous is not None and second - previous > 1:
            points.append((previous + 1 - origin, math.nan))
        points.append((second - origin, value))
        previous = second
    return points


def _draw_requests(panel: Any, rates: dict[str, Points]) -> None:
    for color, points in rates.items():
        times, values = [at for at, _ in points], [value for _, value in points]
        ink = _INKS.get(color, _INKS["ink"])
        panel.plot(times, values, color=ink, linewidth=1.9, linestyle=_DASHES.get(color, "-"), solid_joinstyle="round")
        panel.fill_between(times, values, color=ink, alpha=0.10, linewidth=0)
    panel.set_ylim(bottom=0)
    _title(panel, "Requests per second")


def _draw_errors(panel: Any, errors: dict[str, Points]) -> None:
    bottom: dict[float, float] = defaultdict(float)
    for points in errors.values():
        times, values = [at for at, _ in points], [value for _, value in points]
        floors = [bottom[at] for at in times]
        panel.bar(times, values, width=1.0, align="edge", bottom=floors, color=_INKS["error"])
        for at, value in points:
            bottom[at] += value
    if not errors:
        panel.set_ylim(0, 1)
        panel.set_yticks([0])
        panel.text(0.5, 0.45, "no errors", transform=panel.transAxes, ha="center", va="center", color=_INKS["muted"])
    _title(panel, "Errors per second (5xx)")


def _draw_latency(panel: Any, latency: Sequence[LatencySample], origin: float) -> None:
    by_color: dict[str, list[LatencySample]] = defaultdict(list)
    for sample in latency:
        by_color[sample.color].append(sample)
    for color, samples in sorted(by_color.items()):
        points = latency_points(samples, origin)
        times, values = [at for at, _ in points], [value for _, value in points]
        ink = _INKS.get(color, _INKS["ink"])
        panel.plot(times, values, color=ink, linewidth=1.6, linestyle=_DASHES.get(color, "-"), marker=".", markersize=2)
    panel.set_ylim(bottom=0)
    _title(panel, "Response time, 95th percentile (seconds)")


def _limit_time(
    panel: Any, traffic: Sequence[TrafficSample], mark_times: Sequence[float], origin: float, ticks: int
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    moments = [sample.at - origin for sample in traffic] + list(mark_times)
    first, last = min(moments), max(moments)
    margin = max((last - first) * 0.015, 1.0)
    panel.set_xlim(first - margin, last + margin)
    # Steps that are natural on a clock: 1, 2, 3 or 6 times ten seconds, never 25.
    panel.xaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 3, 6, 10], integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _time_label(value)))
    panel.set_xlabel("Time since the run started (min:s)", color=_INKS["muted"])


def _time_label(value: float) -> str:
    minutes, rest = divmod(abs(round(value)), 60)
    return f"{'−' if value <= -0.5 else '+'}{minutes}:{rest:02d}"


def _draw_marks(panels: Any, placed: Sequence[tuple[float, str]], inches: float) -> None:
    """Vertical lines through all panels, their names above the first, on as many rows as keep them apart."""
    low, high = panels[-1].get_xlim()
    seconds_per_point = (high - low) / ((inches - 0.6) * _POINTS_PER_INCH)
    row_ends: list[float] = []
    top = panels[0].get_xaxis_transform()
    for at, label in placed:
        needed = len(label) * _LABEL_POINTS_PER_LETTER * seconds_per_point
        to_left = at + needed > high
        start = at - needed if to_left else at
        row = next((index for index, end in enumerate(row_ends) if end <= start), len(row_ends))
        row_ends[row:] = [start + needed, *row_ends[row + 1 :]]
        for panel in panels:
            panel.axvline(at, color=_INKS["ink"], linewidth=1, linestyle=(0, (2, 2)), zorder=5)
        panels[0].annotate(
            label,
            xy=(at, 1.0),
            xycoords=top,
            xytext=(-2 if to_left else 2, 3 + 12 * row),
            textcoords="offset points",
            ha="right" if to_left else "left",
            color=_INKS["ink"],
            fontweight="bold",
            annotation_clip=False,
        )
    if row_ends:
        panels[0].title.set_position((0, 1.0))
        panels[0].set_title(panels[0].get_title(loc="left"), loc="left", pad=6 + 12 * len(row_ends), color=_INKS["ink"])


def _title(panel: Any, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=9.5, color=_INKS["ink"])


def _dress(panel: Any) -> None:
    panel.set_facecolor("none")
    panel.grid(axis="y", color=_INKS["grid"], linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_INKS["muted"], length=0)
    panel.yaxis.get_major_locator().set_params(**({"nbins": 4} if _counts(panel) else {}))
    for side, spine in panel.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_INKS["grid"])


def _counts(panel: Any) -> bool:
    return type(panel.yaxis.get_major_locator()).__name__ == "AutoLocator"


def _embeddable(svg: str, prefix: str) -> str:
    """An SVG document as an element of a page: no prolog, no fixed size, ids of its own, colors by CSS variable."""
    element = svg[svg.index("<svg") :]
    opening, rest = element.split(">", 1)
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    element = f'{opening} aria-hidden="true" focusable="false">{rest}'
    # A style inside the drawing would hold for the whole page; the page's own says the same for its charts.
    element = re.sub(r"<(metadata|style)\b.*?</\1>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{prefix}', element)
    element = element.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    for name, stand_in in _INKS.items():
        element = element.replace(stand_in, f"var(--{name})")
    return element.strip()
