"""The `fastconformer` command, one file for each subcommand."""
