"""What /metrics tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from homer_integrations.serve.jobs import Backend, Finished

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class Metrics:
    """Counters of one application; every one has a registry of its own, so that several can live in one process."""

    def __init__(self, backend: Backend) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Busyness(backend))
        self.requests = self._counter("requests", "Requests by endpoint and status.", "endpoint", "status")
        self.cancelled = self._counter("cancelled", "Requests whose client went away.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, before compression.")
        self.kept_tokens = self._counter("kept_tokens", "Tokens of prompts, after compression.")
        self.cached_tokens = self._counter("cached_tokens", "Tokens of prompts that were not computed again.")
        self.generated_tokens = self._counter("generated_tokens", "Tokens of answers.")
        self.first_text = self._histogram("first_text_seconds", "Seconds until the first text of an answer.")
        self.whole = self._histogram("answer_seconds", "Seconds until the end of an answer.")

    def finished(self, result: Finished, first: float, whole: float) -> None:
        """Count one answer and its seconds."""
        usage = result.answer.usage
        if result.choice == 0:  # others are to the same prompt
            self.prompt_tokens.inc(usage.input_tokens)
            self.kept_tokens.inc(usage.kept_tokens)
            self.cached_tokens.inc(result.cached_tokens)
        self.generated_tokens.inc(usage.output_tokens)
        self.first_text.observe(first)
        self.whole.observe(whole)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"homer_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(f"homer_{name}", about, registry=self.registry, buckets=_SECONDS)


class _Busyness(Collector):
    """Figures of the moment, asked of the backend when Prometheus asks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        for name, value in self._backend.busyness().items():
            yield GaugeMetricFamily(f"homer_{name}", f"{name.replace('_', ' ').capitalize()} at this moment.", value)
