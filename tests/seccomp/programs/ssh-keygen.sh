ssh-keygen -q -t ed25519 -N '' -f key
ls key*
