"""`python -m unhot.cli` is the command `unhot`."""

from unhot.cli import main

main()
