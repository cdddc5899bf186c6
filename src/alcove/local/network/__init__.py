"""Network policies of sessions, and the service that enforces their allow-lists."""
