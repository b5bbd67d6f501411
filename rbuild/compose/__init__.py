"""What a project is: its compose files, what they depend on, and how that looks now."""
