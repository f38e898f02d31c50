"""Feature caches that other software wrote, as feature stores; nothing in them is ever unpickled."""
