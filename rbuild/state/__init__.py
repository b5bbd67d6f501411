"""What rbuild keeps about a project: its record, generations, checks and logs; and its lock."""
