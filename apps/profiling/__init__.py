"""How fast an artifact is, on each kind of device."""
