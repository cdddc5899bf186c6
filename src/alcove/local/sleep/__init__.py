"""Sessions that stand still or sleep: by request, when idle, and what wakes them."""
