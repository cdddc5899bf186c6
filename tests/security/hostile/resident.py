"""Does nothing, and stays."""

from tests.security.hostile.raw import stay

if __name__ == "__main__":
    stay()
