"""State that lasts, for every backend: layers read, checked, copied, packed and applied, by descriptors alone."""
