"""The population engine: many models of one architecture trained together."""
