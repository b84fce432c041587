"""Other queues on PostgreSQL, on the same server and in the same run, each in its own fastest configuration."""
