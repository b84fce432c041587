"""What users touch: definitions, the app, ctx and its clients, and the runtime that wires the rooms below together.

This room owns the transaction of an action and of every handler. It holds no SQL text and no loop.
"""
