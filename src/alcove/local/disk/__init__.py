"""What sessions take of the disk: images of their own, accounts, and a reserve."""
