"""One thin file per subcommand: options in, exit code out. Only here is argparse known; nothing is computed."""
