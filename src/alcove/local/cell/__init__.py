"""What a session's processes live in: plan, launch, root file system, groups, and the talk with its warden."""
