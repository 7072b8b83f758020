"""Which tile for which picture and how much memory."""
