"""What is in a test's store, asked of nobody but the store."""

from alcove import LocalSandbox, LocalSandboxConfig


def ids(config: LocalSandboxConfig) -> list[str]:
    """Return the ids of the sessions that have not ended."""
    backend = LocalSandbox(config)
    try:
        return [session.id for session in backend.sessions()]
    finally:
        backend._store.close()
