"""How good is it: held-out losses, beside n-grams and other models, one change at a time."""
