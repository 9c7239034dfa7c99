"""python -m caviar."""

from caviar.cli.main import main

main()
