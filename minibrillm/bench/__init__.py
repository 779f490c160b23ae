"""How fast is it, measured in one run."""
