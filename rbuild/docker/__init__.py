"""What rbuild asks of Docker, and who asks; what image names mean."""
