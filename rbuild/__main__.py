"""`python -m rbuild`."""

from rbuild.cli import main

main(prog_name="rbuild")
