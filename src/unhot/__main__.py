"""`python -m unhot` is the command `unhot`."""

from unhot.cli import main

main()
