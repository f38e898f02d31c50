"""Downloads of data sets, only when asked for: mirrors, resumable transfers, checked archives."""
