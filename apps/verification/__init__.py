"""Can an artifact be believed: its accuracy, and where what it loses is lost."""
