"""``grobust diagnose``."""

__all__ = ["diagnose"]


def diagnose() -> None:
    """Placeholder while the command is being written."""
