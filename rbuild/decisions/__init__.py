"""Is a project due, why, and after which others?"""
