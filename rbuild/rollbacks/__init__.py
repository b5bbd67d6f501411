"""The way back: what a failed or killed update has torn runs again."""
