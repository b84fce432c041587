"""The shelves: one `.py` and one `.sql` for each table family, one function for each statement.

A function runs on the caller's connection, inside the caller's transaction if there is one. Nothing here begins,
commits, sleeps, logs or knows another shelf.
"""
