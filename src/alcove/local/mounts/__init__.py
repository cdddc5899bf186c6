"""Directories of the host in a session: mounted, or worked on by copy-on-write."""
