"""The loops: claim, execute, finish; promote, schedule, activate, rescue, prune; and their supervisor.

This room knows handlers as callables and payloads as JSON texts. It owns the transaction of a tick and every decision
about retry, lease and wake-up; it knows nothing of applications, HTTP or user types.
"""
