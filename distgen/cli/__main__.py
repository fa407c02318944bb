"""`python -m distgen.cli`: the same as `distgen`."""

from distgen.cli import main

main()
