"""Commands in a session: requests, executions, their streams, and terminals."""
