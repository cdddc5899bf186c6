"""What sessions leave behind: sealed layers, snapshots of them, and their archives."""
