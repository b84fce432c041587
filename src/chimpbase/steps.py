"""Steps of declarative workflows: `workflow("customer.onboarding", steps=[act(...), sleep(...), wait(...)])`."""

from __future__ import annotations

from chimpbase._app.declarative import FlowStep, act, branch, each, parallel, sleep, wait

__all__ = ["FlowStep", "act", "branch", "each", "parallel", "sleep", "wait"]
