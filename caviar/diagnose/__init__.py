"""What is wrong with a training run: checks before it, quantities during it, rules that turn records into findings.

The parts are imported from their own modules, so that pages about findings can be read without loading torch.
"""
