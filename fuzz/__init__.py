"""Every decoder and reader fed with what nobody would send: `python -m fuzz --help`, and test/fuzz in the suite."""
