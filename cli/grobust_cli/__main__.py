"""``python -m grobust_cli``."""

from grobust_cli.main import app

if __name__ == "__main__":
    app()
