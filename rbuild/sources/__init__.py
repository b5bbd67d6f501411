"""Where a project's files come from: a git checkout, forward to its upstream and back."""
