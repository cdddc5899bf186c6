"""Egress: what a session may reach, decided by name on the host's side, for every backend alike."""
