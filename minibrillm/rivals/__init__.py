"""The same model in PyTorch, a GPT and an LSTM."""
