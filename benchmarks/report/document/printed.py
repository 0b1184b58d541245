"""Tables of README and docs/results.md."""
def printed_page(text, measured): return text
