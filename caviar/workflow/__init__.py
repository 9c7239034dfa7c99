"""What users call: a recipe or data in, a run out. Import the functions from their modules, or from `caviar`."""
