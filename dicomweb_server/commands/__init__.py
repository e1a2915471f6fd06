"""The commands, a module each: `EXAMPLE`, `run(settings, options)` and, where it takes more than options of settings,
`add_arguments(parser)`. `dicomweb_server.__main__` has the table of them."""
