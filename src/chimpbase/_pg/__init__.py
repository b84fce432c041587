"""The driver's room: connections, statements with budgets, notifications, group commit, the embedded server.

Invariant: no other room names the driver, and no exception of the driver leaves. Nothing is exported here; import from
the module that has the name.
"""
