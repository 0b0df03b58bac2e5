"""What /metrics offers is well named, all there, and what the documents and the dashboard speak of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quince.config import ServeConfig
from quince.errors import InvalidRequest
from quince.metrics import AnswerRecord, Metrics, RequestKind, RequestRecord
from quince.models import demo
from quince.models.manager import ModelManager
from quince.server import prometheus
from quince.server.prometheus import METRICS

DOCS = Path(__file__).parents[2] / "docs"
UNITS = ("seconds", "bytes", "tokens")
# Counted in things; vLLM's names for them.
WITHOUT_UNIT = re.compile(
    r"num_requests_\w+|requests|request_success|num_preemptions|engine_\w+s|model_state|build_info"
)


@pytest.fixture(scope="module")
def text() -> str:
    """A scrape in which everything has happened once."""
    metrics, manager = Metrics(), ModelManager(ServeConfig(model=str(demo.path(demo.CHAT))))
    assert manager.registry.only is not None
    manager._slot(manager.registry.only)
    for name in ("", 'a "quoted"\nname'):
        request = RequestRecord("r", RequestKind.TEXT, metrics)
        request.acquired(name)
        request.status = 200
        request.queued(0.5)
        with AnswerRecord(request, 0, 10) as answer:
            answer.started(3)
            answer.advance(4, 1)
            answer.finish_reason = "stop"
        request.end()
    failed = RequestRecord("r", RequestKind.TEXT, metrics)
    failed.fail(InvalidRequest("no"))
    failed.end()
    body, content_type = prometheus.scrape(metrics, manager, "")
    assert content_type.startswith("text/plain")
    return body.decode()


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=x", "text/plain;version=1.x", ";;,", "\xff"])
def test_what_nobody_can_offer_gets_the_text(accept: str) -> None:
    manager = ModelManager(ServeConfig(model=str(demo.path(demo.CHAT))))
    assert prometheus.scrape(Metrics(), manager, accept)[1].startswith("text/plain")


def test_everything_that_is_described_is_there(text: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {"quince:" + one.name for one in METRICS}
    for one in METRICS:
        family = families["quince:" + one.name]
        assert (family.type, family.documentation) == (one.kind, one.help)
        assert family.samples, one.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(one.labels), one.name


def test_names_are_as_prometheus_wants_them() -> None:
    """The rules of promtool's linter, but for the colon, which is vLLM's way."""
    for one in METRICS:
        assert re.fullmatch("[a-z][a-z0-9_]*", one.name)
        assert one.help.endswith(".") and one.labels == tuple(dict.fromkeys(one.labels))
        assert not one.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not set(one.name.split("_")) & {"counter", "gauge", "histogram", "milliseconds", "kilobytes", "ms"}
        assert one.name.endswith("_info") <= (one.kind == "gauge")
        unit = any(part in UNITS for part in one.name.split("_"))
        assert unit or WITHOUT_UNIT.fullmatch(one.name) or one.name.startswith("prefix_cache_"), one.name


def test_values_are_escaped_and_buckets_grow(text: str) -> None:
    labels = [sample.labels for family in text_string_to_metric_families(text) for sample in family.samples]
    assert 'a "quoted"\nname' in {one.get("model_name") for one in labels}
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert buckets == sorted(buckets) and buckets[-1] >= 1


def test_the_document_lists_them() -> None:
    rows = re.findall(r"^\| `(quince:\w+)` \| (\w+) \| (.*?) \| (.*) \|$", (DOCS / "monitoring.md").read_text(), re.M)
    assert rows == [
        (one.sample_name, one.kind, ", ".join(f"`{label}`" for label in one.labels), one.help) for one in METRICS
    ]


def test_the_document_and_the_dashboard_speak_of_no_others(text: str) -> None:
    known = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    known |= {family.name for family in text_string_to_metric_families(text) if family.type == "histogram"}
    for file in ("monitoring.md", "grafana-dashboard.json"):
        named = set(re.findall(r"quince:\w+", (DOCS / file).read_text()))
        assert named and named <= known, file


def test_the_dashboard_shows_all_of_them_by_labels_that_they_have() -> None:
    board: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for one in METRICS:
        shown = [
            expression for expression in targets if re.search(rf"quince:{one.name}(_total|_bucket)?\{{", expression)
        ]
        assert shown, one.name
        for expression in shown:
            selected = set(re.findall(r"[{,](\w+)=~", expression))
            grouped = {name for names in re.findall(r"by \((.*?)\)", expression) for name in names.split(", ")}
            assert (selected | grouped) - {"instance", "le"} <= set(one.labels), expression
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in board["panels"]}) == len(places)
